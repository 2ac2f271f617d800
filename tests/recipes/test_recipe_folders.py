"""Every shipped recipe is read and checked in full; the large ones are run with a tiny model in its place (slow)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.cli import main
from rlhf_e2h.data.firewall import allowed_scope
from rlhf_e2h.data.math import last_boxed
from rlhf_e2h.data.steps import solution_steps
from rlhf_e2h.data.tokenizers import byte_tokenizer
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in (ROOT / "recipes").iterdir() if (path / "recipe.yaml").is_file())
LARGE = [name for name in RECIPES if name.startswith(("llemma", "qwen"))]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2H_DATA", "somewhere")
    recipe = load_recipe(ROOT / "recipes" / name)
    assert recipe.settings.name == name
    kinds = {spec.kind for spec in recipe.stages.values()}
    assert {"prepare", "sft", "sample", "grade", "reward", "rerank", "evaluate", "report"} <= kinds


@pytest.mark.parametrize("name", RECIPES)
def test_hard_labels_only_where_the_name_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2H_DATA", "somewhere")
    for spec in load_recipe(ROOT / "recipes" / name).stages.values():
        wants = {getattr(spec.config, "labels", "easy"), getattr(spec.config, "outcome", "easy")}
        if wants & {"full", "hard"}:
            assert allowed_scope(spec.kind, spec.name, getattr(spec.config, "purpose", "")) == "full", spec.name


@pytest.mark.parametrize("name", [name for name in RECIPES if (ROOT / "recipes" / name / "README.md").is_file()])
def test_readme_names_only_what_exists(name: str) -> None:
    folder = ROOT / "recipes" / name
    text = (folder / "README.md").read_text(encoding="utf-8")
    for file in re.findall(r"`(\d_\w+\.yaml)`", text):
        assert (folder / file).is_file(), f"{file} is named in the README of {name}"
    assert f"e2h run recipes/{name}" in text


# ---- The large recipes in miniature ----------------------------------------------------------------------------


def shared_data() -> Path:
    folder = Path(os.environ.get("E2H_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "math_train.jsonl").is_file():
        pytest.skip("real MATH rows are not here; set E2H_DATA to the folder with math_train.jsonl")
    return folder


def tiny_model(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": len(byte_tokenizer()), "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192, "pad_token_id": 0}
    if architecture == "qwen":
        return Qwen2ForCausalLM(Qwen2Config(**shape, **heads, eos_token_id=1, bos_token_id=None))
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, eos_token_id=1, bos_token_id=None))


@pytest.fixture(scope="module")
def tiny_bases(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models that know how a solution ends and nothing else: random ones never finish one."""
    bases = {}
    tokenizer = byte_tokenizer()
    ends = [row["problem"][-60:] for row in read_jsonl(data / "math_train.jsonl")]
    for architecture in ("llemma", "qwen"):
        model = tiny_model(architecture)
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(250):
            prompts = [SECTIONS.prompt(ends[(10 * step + digit) % len(ends)]) for digit in range(10)]
            texts = [
                f"{prompt}{SECTIONS.solution(['So.'], str((i + 3 * step) % 10))}<eos>"
                for i, prompt in enumerate(prompts)
            ]
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            model(**batch, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        bases[architecture] = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(bases[architecture])
        tokenizer.save_pretrained(bases[architecture])
    return bases


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real problems with one-digit answers, and step labels of our own for them in the public formats."""
    folder = tmp_path_factory.mktemp("data")
    train, test = _pick("math_train.jsonl", 6), _pick("math_test.jsonl", 6)
    for index, row in enumerate(test):
        row["in_math500"] = index % 2 == 0
    write_jsonl(folder / "math_train.jsonl", train)
    write_jsonl(folder / "math_test.jsonl", test)
    for phase, rows in (("phase1", train[::2]), ("phase2", train[1::2])):
        write_jsonl(folder / f"{phase}_train.jsonl", map(_prm800k, rows))
    write_jsonl(folder / "metamath.jsonl", [_metamath(row, i) for row in train for i in range(2)])
    write_jsonl(folder / "shepherd.jsonl", map(_shepherd, train))
    return folder


def _pick(name: str, per_level: int) -> list[dict[str, Any]]:
    picked: dict[int, list[dict[str, Any]]] = {level: [] for level in range(1, 6)}
    for line in (shared_data() / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = last_boxed(row["solution"]) or ""
        fits = row["level"] and len(answer) == 1 and answer.isdigit() and len(row["problem"] + row["solution"]) < 500
        if fits and row["subject"] == "Algebra" and len(picked[row["level"]]) < per_level:
            picked[row["level"]].append(row)
    return [row for rows in picked.values() for row in rows]


def _prm800k(row: dict[str, Any]) -> dict[str, Any]:
    texts = solution_steps(row["solution"])
    texts[-1] += f"\n\n# Answer\n\n{last_boxed(row['solution'])}"
    steps = [
        {
            "completions": [{"text": t, "rating": 1}, {"text": "No.", "rating": -1}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for t in texts
    ]
    return {"question": {"problem": row["problem"]}, "label": {"steps": steps, "finish_reason": "solution"}}


def _metamath(row: dict[str, Any], number: int) -> dict[str, Any]:
    response = f"{row['solution']}\nThe answer is: {last_boxed(row['solution'])}"
    query = f"{row['problem']} ({number})"
    return {"type": "MATH_Rephrased", "query": query, "original_question": row["problem"], "response": response}


def _shepherd(row: dict[str, Any]) -> dict[str, Any]:
    solution = " ".join(row["solution"].split())
    text = f"{row['problem']} Step 1: {solution} X\nStep 2: The answer is: {last_boxed(row['solution'])} X"
    return {
        "input": text.replace(" X", " ки"),
        "label": text.replace(" X", " +", 1).replace(" X", " -"),
        "task": "MATH",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_stage_in_miniature(name: str, tiny_bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """What would fail at hour nine of a large run fails here: real problems, tiny model of the same architecture."""
    recipe = load_recipe(ROOT / "recipes" / name, [f"math={data}"])
    small: dict[str, Any] = {
        "base": tiny_bases[name.split("-")[0].split("2")[0]],
        "math": data,
        "prm800k": data,
        "metamath": data / "metamath.jsonl",
        "shepherd": data / "shepherd.jsonl",
        "rm_samples": 8,
        "bank": 4,
        "new_tokens": 48,
        "prompts": 10,
        "ppo_steps": 2,
        "rollouts": 16,
        "batch": 8,
        "micro_batch": 2,
        "bf16": "false",
        "validation_problems": 5,
    }
    stages = {
        "orm.held_out": 0.5,
        "oprm.held_out": 0.5,
        "prm.held_out": 0.3,
        "prm_full.held_out": 0.3,
        "dpo.margin": 0.0,
        "dpo.margin_unlabelled": 0.0,
        "dpo.training.batch_size": 2,
        "dpo.rounds": 1,
        "rest.threshold": 0.0,
        "rest.rounds": 1,
        "sft_easy.training.bf16": "false",
        "sft_full.training.bf16": "false",
        "rest.training.bf16": "false",
        "ppo.eval_every": 1,
        "ppo_easy.eval_every": 1,
        "ppo_dagger.eval_every": 1,
        "report.draws": 100,
    }
    overrides = [f"{key}={value}" for key, value in small.items() if key in recipe.settings.variables]
    overrides += [f"{key}={value}" for key, value in stages.items() if key.split(".")[0] in recipe.stages]
    assert main(["run", str(ROOT / "recipes" / name), f"runs={tmp_path}", *overrides]) == 0
    assert (next((tmp_path / "report").iterdir()) / "results.csv").is_file()
