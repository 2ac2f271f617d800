"""How the paper trains: embeddings and norms frozen everywhere, and a cosine schedule that ends at 1 % of its peak."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

from reward_models.model import freeze_parts
from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.models import LoraSettings
from rlhf_e2h.runs import StageRun
from rlhf_e2h.stages.sft import finetune
from rlhf_e2h.tracking import Tracker
from rlhf_e2h.training import TrainingSettings, trainer_arguments

PAPER = {"schedule": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.01}, "freeze_embeddings": True}
FROZEN = ("embed_tokens", "lm_head", "norm")


def untied(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fine_tuning_leaves_embeddings_and_norms_as_they_were(tmp_path, checkpointing):
    tokenizer = BUILDERS["procedural"]()
    model = untied(tokenizer)
    before = copy.deepcopy(model.state_dict())
    run = StageRun("sft", "sft", tmp_path, 0, tmp_path, Tracker(tmp_path), {})
    settings = TrainingSettings(
        max_steps=4, batch_size=2, freeze_norms=True, gradient_checkpointing=checkpointing, learning_rate=1e-2, **PAPER
    )
    rows = [{"prompt": "p=q?", "completion": "p=1"}] * 8
    trained = finetune(model, tokenizer, rows, settings, LoraSettings(), run)[0].state_dict()
    changed = {name for name, weights in trained.items() if not torch.equal(weights, before[name])}
    assert changed == {name for name in before if not any(part in name for part in FROZEN)}


def test_the_output_embedding_of_a_language_model_is_an_embedding_and_the_head_of_a_scorer_is_not():
    model = untied(BUILDERS["procedural"]())
    freeze_parts(model, True, False)
    assert not model.lm_head.weight.requires_grad and model.model.norm.weight.requires_grad


def test_the_schedule_of_the_paper_ends_at_a_hundredth(tmp_path):
    run = StageRun("sft", "sft", tmp_path, 0, tmp_path, Tracker(tmp_path), {})
    arguments = trainer_arguments(TrainingSettings(**PAPER), run)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    name, options = arguments["lr_scheduler_type"], arguments["lr_scheduler_kwargs"]
    schedule = get_scheduler(name, optimizer, 0, 100, scheduler_specific_kwargs=options)
    for _ in range(100):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(2e-7)]  # Sun et al. 2024: 2e-5 falls to 2e-7
