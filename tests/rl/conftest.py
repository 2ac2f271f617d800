from string import ascii_lowercase

import pytest
import torch
from accelerate import Accelerator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForTokenClassification, PreTrainedTokenizerFast

from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.runner.environment import forget_accelerate_state
from rlhf_e2h.training.models import ModelShape, new_llama


@pytest.fixture
def accelerator():
    forget_accelerate_state()
    return Accelerator(cpu=True, mixed_precision="no")


def character_tokenizer():
    """The small world's tokenizer without its expressions: with 52 tokens a random policy writes each now and then."""
    words = ["\n\n", "# Question", "# Solution", "# Answer", "# Marked solution", " ok", " no"]
    vocabulary = ["<pad>", "<eos>", "<unk>", *words, *"0123456789", *ascii_lowercase, *"+*=;? "]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*words, "[\\s\\S]"])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, model_input_names=names)


@pytest.fixture
def tiny(monkeypatch):
    """(policy, value model, tokenizer) of two layers, the same each time."""
    torch.set_num_threads(1)
    monkeypatch.setitem(BUILDERS, "characters", character_tokenizer)
    shape = ModelShape(hidden=32, layers=2, intermediate=64, heads=2, max_positions=256)
    policy, tokenizer = new_llama(shape, "characters", seed=0)
    policy.config.num_labels = 1
    value = LlamaForTokenClassification(policy.config)
    value.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(value.score.weight)
    torch.nn.init.zeros_(value.score.bias)
    return policy, value, tokenizer
