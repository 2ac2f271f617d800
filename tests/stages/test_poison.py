"""Proof of the firewall: with every hard label replaced by garbage, easy-only stages train the same weights."""

from pathlib import Path

import pytest

from reward_models.records import write_jsonl
from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart"
EASY_ONLY = (
    "sft_easy",
    "icl",
    "sample_easy",
    "grade_easy",
    "orm",
    "prm",
    "oprm",
    "bank",
    "dpo",
    "rest",
    "ppo",
)
BASELINES = ("sft_full", "ppo_dagger")  # prm_full learns from step labels, which this world makes without answers
SMALL = [
    "prepare.source=jsonl",
    "prepare.train_per_level=[]",
    "prepare.test_per_level=[]",
    "prepare.validation_per_level=[]",
    "sft_easy.training.max_steps=4",
    "sft_full.training.max_steps=4",
    "sample_easy.decoding.n=4",
    "sample_full.decoding.n=4",
    "bank.decoding.n=2",
    *(f"{name}.training.num_train_epochs=1" for name in ("orm", "prm", "oprm", "prm_full")),
    "dpo.problems=20",
    "dpo.margin_unlabelled=0.0",
    "rest.problems=20",
    "rest.threshold=0.0",
    *(
        f"{name}.{s}"
        for name in ("ppo", "ppo_dagger")
        for s in ("steps=2", "rollouts=16", "per_device_train_batch_size=8")
    ),
]


def _rows(seed: int, count: int, poison: bool) -> list[dict]:
    rows = make_problems(dict.fromkeys(range(1, 6), count), seed)
    for index, row in enumerate(rows):
        if poison and row["level"] in (4, 5):
            row["answer"] = str(90 + index % 10)
            row["solution"] = f"garbage {index}\n\n# Answer\n\n{row['answer']}"
    return rows


def _run(folder: Path, poison: bool) -> dict[str, dict]:
    write_jsonl(folder / "train.jsonl", _rows(1, 30, poison))
    write_jsonl(folder / "test.jsonl", _rows(2, 4, poison))
    where = [
        f"prepare.train={folder / 'train.jsonl'}",
        f"prepare.test={folder / 'test.jsonl'}",
        f"runs={folder / 'runs'}",
    ]
    recipe = load_recipe(RECIPE, [*SMALL, *where])
    run_recipe(recipe)
    return {name: read_done(next((folder / "runs" / name).iterdir())) for name in (*EASY_ONLY, *BASELINES)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    clean = tmp_path_factory.mktemp("clean")
    return _run(clean, False), _run(tmp_path_factory.mktemp("poisoned"), True), clean


def test_the_same_seed_gives_the_same_results(runs, tmp_path):
    again = _run(tmp_path, False)
    for name, done in again.items():
        assert _weights(done) == _weights(runs[0][name])
    assert _results(tmp_path) == _results(runs[2])


def _results(folder: Path) -> bytes:
    return next((folder / "runs" / "report").iterdir()).joinpath("results.csv").read_bytes()


def _weights(done: dict) -> dict[str, str]:
    return {name: digest for name, digest in done["files"].items() if not name.endswith((".md", "in_context.json"))}


@pytest.mark.parametrize("stage", EASY_ONLY)
def test_easy_only_stages_do_not_see_hard_labels(runs, stage):
    clean, poisoned, _ = runs
    assert _weights(clean[stage]) == _weights(poisoned[stage])
    read = {record["file"] for record in clean[stage]["labels_read"]} | set(clean[stage]["labels_inherited"])
    assert read <= {"labels_easy.jsonl"}


@pytest.mark.parametrize("stage", BASELINES)
def test_baselines_do_see_them(runs, stage):
    """The control: had the poison not arrived, the test above would pass for nothing."""
    clean, poisoned, _ = runs
    assert clean[stage]["files"]["model.safetensors"] != poisoned[stage]["files"]["model.safetensors"]
