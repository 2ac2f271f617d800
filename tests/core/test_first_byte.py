"""Every shipped recipe that names a hub model, as shipped, in an empty folder: nothing refuses before the weights.

A stand-in for the hub serves config.json (the published sizes) and a tokenizer of the right kind for each model, but no
weights: the recipe has passed when it has asked for them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import hub

from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.store import MODEL_SETTINGS, looks_like_hub_id
from rlhf_e2h.tools.miniature.model import _tokenizer, family_of

ROOT = Path(__file__).parents[2]
QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
# from the config.json that each repository publishes
CONFIGS = {
    "EleutherAI/llemma_7b": LLAMA | dict(zip(SIZES, (4096, 32, 32, 32, 11008), strict=True)) | {"vocab_size": 32016},
    "EleutherAI/llemma_34b": LLAMA | dict(zip(SIZES, (8192, 48, 64, 8, 22016), strict=True)) | {"vocab_size": 32000},
    "codellama/CodeLlama-7b-hf": LLAMA
    | dict(zip(SIZES, (4096, 32, 32, 32, 11008), strict=True))
    | {"vocab_size": 32016},
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": QWEN
    | dict(zip(SIZES, (896, 24, 14, 2, 4864), strict=True))
    | {"vocab_size": 151936, "tie_word_embeddings": True},
    "Qwen/Qwen2.5-Math-1.5B": QWEN
    | dict(zip(SIZES, (1536, 28, 12, 2, 8960), strict=True))
    | {"vocab_size": 151936, "tie_word_embeddings": True},
    "Qwen/Qwen2.5-Math-7B": QWEN | dict(zip(SIZES, (3584, 28, 28, 4, 18944), strict=True)) | {"vocab_size": 152064},
}


def _names_a_hub_model(name: str) -> bool:
    variables = load_recipe(ROOT / "recipes" / name).settings.variables
    return any("/" in str(value) and looks_like_hub_id(str(value)) for value in variables.values())


LARGE = [
    path.parent.name
    for path in sorted((ROOT / "recipes").glob("*/recipe.yaml"))
    if _names_a_hub_model(path.parent.name)
]
# those of 0.5B take more problems a level than the small files below have; test_real_model_recipes runs them
FETCHED = [name for name in LARGE if not name.endswith("-0.5b")]
# what a person types, one after the other in one process: the whole recipe, then what does not wait for it
WORK = """
import json, shutil, sys, traceback
from rlhf_e2h.cli import main
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**15, 0, 10**15)  # the machine these recipes are for
for name, stage in json.loads(sys.argv[1]):
    print(f"== {name} {stage}", file=sys.stderr, flush=True)
    try:
        main(["run", name, *(["--only", stage] if stage else [])])
    except Exception:
        traceback.print_exc()
"""


def _problem(side: str, level: int, number: int) -> dict[str, Any]:
    """A row in the form of MATH. Every problem reads differently, or it would be taken for a leak."""
    first, second = 100 * level + number, 7 * number + (3 if side == "train" else 4)
    words = f"{side} number {number} of level {level}: what do {first} and {second} come to?"
    solution = f"We add {first} and {second}.\n\nThe sum is $\\boxed{{{first + second}}}$."
    return {"problem": words, "level": f"Level {level}", "type": "Algebra", "solution": solution}


def _prm800k(row: dict[str, Any]) -> dict[str, Any]:
    texts = [*row["solution"].split("\n\n")]
    texts[-1] += f"\n\n# Answer\n\n{row['solution'].rpartition('{')[2].partition('}')[0]}"
    steps = [
        {
            "completions": [{"text": text, "rating": 1}, {"text": "No.", "rating": -1}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for text in texts
    ]
    return {"question": {"problem": row["problem"]}, "label": {"steps": steps, "finish_reason": "solution"}}


def _shepherd(row: dict[str, Any]) -> dict[str, Any]:
    solution = row["solution"].replace("\n\n", " ")

    def text(first: str, second: str) -> str:
        return f"{row['problem']} Step 1: {solution} {first}\nStep 2: The answer is: 5 {second}"

    return {"input": text("ки", "ки"), "label": text("+", "-"), "task": "MATH"}


def _metamath(row: dict[str, Any]) -> dict[str, Any]:
    answer = row["solution"].rpartition("{")[2].partition("}")[0]
    response = f"{row['solution']}\nThe answer is: {answer}"
    query = {"query": row["problem"], "original_question": row["problem"]}
    return {"type": "MATH_AnsAug", "response": response, **query}


def _apps(side: str, number: int, difficulty: str) -> dict[str, str]:
    """A problem in the form of APPS, whose fields hold JSON as text."""
    tests = {"inputs": [f"{number}\n"], "outputs": [f"{number + 1}\n"]}
    return {
        "question": f"{side} {number} ({difficulty}): read a number and print what comes {number} after it.",
        "solutions": json.dumps([f"print(int(input()) + {number})"]),
        "input_output": json.dumps(tests),
        "difficulty": difficulty,
        "starter_code": "",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MATH, PRM800K, MetaMATH and Math-Shepherd as they are passed around, small; the recipes' sizes stay."""
    folder = tmp_path_factory.mktemp("data")
    train = [_problem("train", level, number) for level in range(1, 6) for number in range(12)]
    test = [_problem("test", level, number) for level in range(1, 6) for number in range(6)]
    for number, row in enumerate(test):
        row["in_math500"] = number % 2 == 0
    files = {
        "math_train": train,
        "math_test": test,
        "phase1_train": [_prm800k(row) for row in train[::2]],
        "phase2_train": [_prm800k(row) for row in train[1::2]],
        "metamath": [_metamath(row) for row in train for _ in range(3)],
        "shepherd": [_shepherd(row) for row in train],
        "train": [_apps("train", number, "introductory") for number in range(20)],
        "test": [
            _apps("test", number, difficulty)
            for difficulty, count in (("introductory", 100), ("interview", 300), ("competition", 100))
            for number in range(count)
        ],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def asked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each command said, and what the hub was asked for in all, by recipe and stage."""
    folder = tmp_path_factory.mktemp("hub")
    texts = [json.loads(line)["solution"] for line in (data / "math_train.jsonl").open(encoding="utf-8")]
    for name, config in CONFIGS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        _tokenizer(family_of(name).tokenizer, texts).save_pretrained(folder / name)
    work = tmp_path_factory.mktemp("empty")
    commands = [(name, "") for name in FETCHED] + [
        (name, stage) for name in FETCHED for stage in ("sft_full", "prm") if stage in _stages(name)
    ]
    with hub({name: folder / name for name in CONFIGS}) as (address, log):
        environment = {
            **os.environ,
            **{"HF_ENDPOINT": address, "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "0", "E2H_DATA": str(data)},
            **{"PRM800K": str(data), "METAMATH": str(data / "metamath.jsonl"), "APPS": str(data)},
            **{"MATH_SHEPHERD": str(data / "shepherd.jsonl"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        }
        done = subprocess.run(
            [sys.executable, "-c", WORK, json.dumps(commands)],
            capture_output=True, text=True, env=environment, cwd=work, timeout=600, check=False,
        )  # fmt: skip
    said = dict(part.split("\n", 1) for part in done.stderr.split("== ")[1:])
    return {"said": said, "log": {"asked": "\n".join(log)}}


def _stages(name: str) -> dict[str, Any]:
    return load_recipe(ROOT / "recipes" / name).stages


@pytest.mark.parametrize("name", FETCHED)
def test_a_recipe_as_shipped_asks_the_hub_for_its_weights(name: str, asked: dict[str, dict[str, str]]) -> None:
    base = load_recipe(ROOT / "recipes" / name).settings.variables["base"]
    assert f"{base}: model.safetensors" in asked["log"]["asked"].splitlines(), asked["said"]
    for stage in ("", "sft_full", "prm"):
        said = asked["said"].get(f"{name} {stage}")
        assert said is not None or stage not in _stages(name), f"{name} --only {stage} was not reached"
        # the last line is about the weights, which this hub does not have
        assert said is None or f"e2h: model '{base}' has no weights" in said.splitlines()[-1], said


@pytest.mark.parametrize("name", LARGE)
def test_every_stage_of_a_recipe_as_shipped_is_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_e2h.cli import main

    assert main(["plan", name, "--gpus", "8", "--json"]) in (0, 1)
    plan = json.loads(capsys.readouterr().out)
    run = [s for s in _stages(name).values() if not s.optional]  # what `e2h run` runs
    opening = {s.name for s in run if any(hasattr(s.config, field) for field in MODEL_SETTINGS)}
    planned = {stage["name"] for stage in plan["stages"]} | set(plan["unplanned"])
    assert {stage for stage in opening if not stage.startswith(("icl", "report"))} <= planned


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("Qwen/Qwen2.5-Math-1.5B", True),
        ("meta-llama/Llama-3.1-8B", True),
        ("Qwen/Qwen3-0.6B", True),
        ("mistralai/Mistral-7B-v0.1", True),
        ("TheBloke/some.model-GGUF", True),
        ("gpt2", True),
        ("data/train.jsonl", False),
        ("models/weights.GGUF", False),
        ("train.parquet", False),
        ("rows.jsonl.gz", False),
        ("./gpt2", False),
        ("/models/gpt2", False),
        ("~/gpt2", False),
        ("a/b/c", False),
        ("owner/", False),
        ("", False),
        ("two words", False),
    ],
)
def test_only_the_suffix_of_a_data_file_says_that_a_file_was_meant(name: str, is_one: bool) -> None:
    assert looks_like_hub_id(name) is is_one
