import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaForTokenClassification

from rlhf_e2h.environment import forget_accelerate_state
from rlhf_e2h.models import ModelShape, new_llama


@pytest.fixture
def accelerator():
    forget_accelerate_state()
    return Accelerator(cpu=True, mixed_precision="no")


@pytest.fixture
def tiny():
    """(policy, value model, tokenizer) of two layers, the same each time."""
    torch.set_num_threads(1)
    shape = ModelShape(hidden=32, layers=2, intermediate=64, heads=2, max_positions=256)
    policy, tokenizer = new_llama(shape, "procedural", seed=0)
    policy.config.num_labels = 1
    value = LlamaForTokenClassification(policy.config)
    value.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(value.score.weight)
    torch.nn.init.zeros_(value.score.bias)
    return policy, value, tokenizer
