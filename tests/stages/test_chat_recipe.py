"""One recipe in chat format through all stages: the format travels beside policies, samples and reward models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from reward_models.records import read_jsonl
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.store import ASSETS

# A chat template in the words that the shipped base knows, so that it solves what it is asked.
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}# Question\n\n{{ m['content'] }}\n\n# Solution\n\n"
    "{% else %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
)
PROMPT = "# Question\n\n{problem}\n\n# Solution\n\n"
TRAINING = {"learning_rate": 1e-4, "max_steps": 1, "batch_size": 8}
COUNTS = {"train_per_level": [6] * 5, "test_per_level": [2] * 5}
POLICY = {"policy": "@sft", "data": "@prepare"}
STAGES = {
    "1_prepare": {"stage": "prepare", "source": "procedural", **COUNTS},
    "2_sft": {"stage": "sft", "policy": "BASE", "data": "@prepare", "training": TRAINING},
    "3_bank": {"stage": "sample", **POLICY, "decoding": {"n": 8, "max_new_tokens": 80}},
    "4_graded": {"stage": "grade", "samples": "@bank", "data": "@prepare"},
    "5_orm": {"stage": "reward", "kind": "orm", "base": "BASE", "data": "@prepare", "graded": "@graded",
              "held_out": 0.5, "balance": 100.0, "training": {"num_train_epochs": 0.1, "batch_size": 4}},
    "6_prm": {"stage": "reward", "kind": "prm", "base": "BASE", "data": "@prepare", "graded": "@graded",
              "step_labels": "procedural", "held_out": 0.3, "training": {"num_train_epochs": 0.1, "batch_size": 8}},
    "7_scored": {"stage": "rerank", "samples": "@bank", "data": "@prepare", "reward_models": {"prm": "@prm"}},
    "7_annotate": {"stage": "annotate", **POLICY, "graded": "@graded", "samples": 2, "per_problem": 1,
                   "max_new_tokens": 40},
    "8_ppo": {"stage": "ppo", **POLICY, "reward_model": "@prm", "value_init": "policy",
              "steps": 1, "rollouts": 8, "num_mini_batches": 2, "max_new_tokens": 60},
    "8_dpo": {"stage": "dpo", **POLICY, "reward_model": "@prm", "margin": 0.0, "margin_unlabelled": 0.0,
              "decoding": {"n": 4, "max_new_tokens": 80}, "training": TRAINING},
    "8_rest": {"stage": "rest", **POLICY, "reward_model": "@prm", "threshold": 0.0, "rounds": 1,
               "decoding": {"n": 4, "max_new_tokens": 80}, "training": TRAINING},
    "8_grpo": {"stage": "grpo", **POLICY, "reward_model": "@prm", "num_generations": 4, "max_new_tokens": 60,
               "training": TRAINING},
    "9_evaluate": {"stage": "evaluate", "data": "@prepare", "max_new_tokens": 80,
                   "policies": {"base": "BASE", "ppo": "@ppo", "dpo": "@dpo", "rest": "@rest", "grpo": "@grpo"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "base")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "base")
    AutoModelForCausalLM.from_pretrained(ASSETS / "base").save_pretrained(folder / "base")
    (folder / "recipe").mkdir()
    chat = {"name": "chat", "instruction": "", "answer": "section"}
    (folder / "recipe" / "recipe.yaml").write_text(yaml.safe_dump({"name": "chat", "format": chat, "threads": 1}))
    for name, settings in STAGES.items():
        text = yaml.safe_dump(settings).replace("BASE", str(folder / "base"))
        (folder / "recipe" / f"{name}.yaml").write_text(text)
    run_recipe(load_recipe(folder / "recipe", [f"runs={folder / 'runs'}"]))
    return folder / "runs"


def output(runs: Path, stage: str) -> Path:
    return next(path.parent for path in (runs / stage).glob("*/done.json"))


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo", "rest", "grpo", "bank", "graded"])
def test_the_format_is_saved_beside_policies_and_samples(runs: Path, stage: str) -> None:
    saved = json.loads((output(runs, stage) / "text_format.json").read_text())
    assert (saved["name"], saved["template"], saved["answer_rule"]) == ("chat", PROMPT, "section")


@pytest.mark.parametrize("stage", ["orm", "prm"])
def test_a_reward_model_keeps_the_template_of_its_samples(runs: Path, stage: str) -> None:
    assert AutoConfig.from_pretrained(output(runs, stage)).step_contract["template"] == PROMPT


def test_answers_are_found_and_graded(runs: Path) -> None:
    rows = read_jsonl(output(runs, "graded") / "graded.jsonl")
    assert sum(row["correct"] for row in rows) > len(rows) / 2
    assert not json.loads((output(runs, "graded") / "done.json").read_text()).get("warnings")


def test_reranking_counts_what_the_reward_model_read(runs: Path) -> None:
    """A count of characters bounds that of tokens from above, one of steps from below."""
    rows = read_jsonl(output(runs, "scored") / "scored_prm.jsonl")
    done = json.loads((output(runs, "scored") / "done.json").read_text())
    steps = sum(len(row["step_scores"]) for row in rows)
    assert steps < done["tokens"] < sum(len(row["text"]) + len(PROMPT) + 200 for row in rows)
    assert done["flops"] > 2 * 500_000 * done["tokens"]  # of the base's 0.87 million weights most are in its layers


def test_done_says_which_format_and_why(runs: Path) -> None:
    notes = json.loads((output(runs, "sft") / "done.json").read_text())["notes"]
    assert notes["format"] == "chat: set by `format`"


def test_policies_are_evaluated_in_their_format(runs: Path) -> None:
    found = json.loads((output(runs, "evaluate") / "policies.json").read_text())["policies"]
    assert set(found) == {"base", "ppo", "dpo", "rest", "grpo"}
    for levels in found.values():
        assert levels["1"]["accuracy"] == 1.0  # the shipped base solves easy problems; the wrong prompt would give 0
