"""How the paper trains: embeddings and norms frozen everywhere, and a cosine schedule that ends at 1 % of its peak."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

from reward_models.model import freeze_parts
from reward_models.records import write_jsonl
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.firewall import FirewallError, write_split
from rlhf_e2h.data.step_targets import StepTarget
from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.encoding import trl_rows
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages.sft import Config, _solutions
from rlhf_e2h.training.arguments import TrainingSettings, trainer_arguments
from rlhf_e2h.training.finetune import finetune

PAPER = {
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
    "freeze_embeddings": True,
}
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
    trained = finetune(model, tokenizer, rows, settings, run)[0].state_dict()
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
    name, options = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    schedule = get_scheduler(name, optimizer, 0, 100, scheduler_specific_kwargs=options)
    for _ in range(100):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(2e-7)]  # Sun et al. 2024: 2e-5 falls to 2e-7


def test_steps_as_targets_train_the_step_alone_and_end_after_the_answer_only(tmp_path):
    tokenizer = BUILDERS["byte"]()
    rows = [StepTarget("p", ("a.",), "b.").row(), StepTarget("p", ("a.",), "# Answer\n\n5").row()]
    inner, last = trl_rows(tokenizer, rows)
    trained = [[i for i, on in zip(r["input_ids"], r["completion_mask"], strict=True) if on] for r in (inner, last)]
    assert tokenizer.decode(trained[0]) == "b.\n\n"
    assert trained[1][-1] == tokenizer.eos_token_id and tokenizer.decode(trained[1][:-1]) == "# Answer\n\n5"
    assert tokenizer.decode(inner["input_ids"]) == "# Question\n\np\n\n# Solution\n\na.\n\nb.\n\n"


def test_ratings_of_hard_steps_stay_behind_the_firewall(tmp_path):
    write_split(tmp_path, {"train": []})
    easy, hard = ({"problem": name, "steps": ["s"], "labels": [1], "ratings": [1]} for name in ("easy", "hard"))
    write_jsonl(tmp_path / "stepwise_easy.jsonl", [easy])

    def opened(name, scope):
        run = StageRun(name, "sft", tmp_path, 0, tmp_path, Tracker(None), {})
        return [row["problem"] for row in run.stepwise(tmp_path, scope)], {r["file"] for r in run.labels_read}

    assert opened("sft_easy", "easy") == (["easy"], {"labels_easy.jsonl", "stepwise_easy.jsonl"})
    with pytest.raises(ConfigError, match=r"no stepwise_full\.jsonl; give a prepare stage with step labels"):
        opened("sft_full", "full")
    write_jsonl(tmp_path / "stepwise_full.jsonl", [easy, hard])
    with pytest.raises(FirewallError, match="may not read the sealed labels"):
        opened("sft_easy", "full")
    found, files = opened("sft_full", "full")
    assert found == ["easy", "hard"] and {"labels_sealed.jsonl", "stepwise_full.jsonl"} <= files
    assert opened("sft_hardonly", "hard")[0] == ["hard"]


def test_a_limit_of_fine_tuning_takes_solutions_of_every_level(tmp_path):
    examples = [
        Example(f"{level}-{i}", f"p{level}{i}", level, "", "1", "a.\n\n# Answer\n\n1", "s")
        for level in (1, 2, 3)
        for i in range(4)
    ]
    write_split(tmp_path, {"train": examples})
    run = StageRun("sft_easy", "sft", tmp_path, 0, tmp_path, Tracker(None), {})
    problems, rows = _solutions(Config("p", "d", limit=6), run, tmp_path, SECTIONS)
    assert [problem["level"] for problem in problems] == [1, 1, 2, 2, 3, 3] and len(rows) == 6
