"""The recipes for a real model of 0.5 billion weights, at their smallest size, with nothing in its place.

E2H_REAL_MODEL=FOLDER pytest -m slow -s tests/recipes/test_real_model_recipes.py
"""

import csv
import json
import os
from pathlib import Path

import pytest

from rlhf_e2h.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k-0.5b", "math-0.5b"])
def test_smoke_runs_every_stage_and_fills_the_table(name, tmp_path, monkeypatch):
    data = Path(os.environ.get("E2H_DATA", ROOT.parent / "shared" / "data"))
    model = os.environ.get("E2H_REAL_MODEL", "")
    if not model or not (data / "gsm8k_train.jsonl").is_file():
        pytest.skip("set E2H_REAL_MODEL to the folder of a real model, and E2H_DATA to that of MATH and GSM8K")
    monkeypatch.setenv("E2H_DATA", str(data))
    runs = tmp_path / "runs"
    assert not main(["run", str(ROOT / "recipes" / name), "size=smoke", f"base={model}", f"runs={runs}"])
    done = [json.loads(file.read_text()) for file in runs.rglob("done.json")]
    print({record["name"]: record["seconds"] for record in done})
    (table,) = runs.rglob("results.csv")
    policies = {row["policy"] for row in csv.DictReader(table.open())}
    assert {"icl", "sft_easy", "ppo", "dpo", "rest", "sft_full", "ppo_dagger"} <= policies


@pytest.mark.slow
def test_heads_on_frozen_models_run_whole(tmp_path, monkeypatch):
    """E2H_WEAK_MODEL names the weak one; without it the real model is its own supervisor."""
    data = Path(os.environ.get("E2H_DATA", ROOT.parent / "shared" / "data"))
    strong = os.environ.get("E2H_REAL_MODEL", "")
    if not strong or not (data / "prm800k" / "phase1_train.jsonl").is_file():
        pytest.skip("set E2H_REAL_MODEL to the folder of a real model, and E2H_DATA to that of MATH, GSM8K and PRM800K")
    monkeypatch.setenv("E2H_DATA", str(data))
    monkeypatch.chdir(ROOT)  # the bank is named from there
    runs, weak = tmp_path / "runs", os.environ.get("E2H_WEAK_MODEL", strong)
    recipe = str(ROOT / "recipes" / "frozen-0.5b")
    command = ["run", recipe, "size=smoke", f"weak={weak}", f"strong={strong}", f"runs={runs}"]
    assert not main(command)
    (table,) = runs.rglob("probe_transfer.csv")
    rows = list(csv.DictReader(table.open()))
    assert {row["task"] for row in rows} == {"math_steps", "math_outcomes", "gsm8k_outcomes"}
    assert all(0 <= float(row["auc"]) <= 1 for row in rows)
    (finds,) = runs.rglob("finds.md")
    assert len(finds.read_text().splitlines()) > 2
    for stage in ("math_items_full", "gsm8k_items_full", "tuned_full"):  # the models themselves, by LoRA
        assert not main([*command, "--only", stage])
    (table,) = runs.rglob("tuned_transfer.csv")
    assert {row["task"] for row in csv.DictReader(table.open())} == {row["task"] for row in rows}
