"""Solutions that are too long for fine-tuning: counted, and refused where nothing is left."""

import json
from pathlib import Path

import pytest

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done


def _results(recipe, runs, max_length):
    (recipe / "2_sft.yaml").write_text(
        f'stage: sft\npolicy: "@pretrain"\ndata: "@prepare"\ntraining: {{max_length: {max_length}, max_steps: 1}}\n'
    )
    run_recipe(load_recipe(recipe, [runs]), only="prepare")
    run_recipe(load_recipe(recipe, [runs]), only="pretrain")
    run_recipe(load_recipe(recipe, [runs]), only="sft")
    return read_done(max(Path(runs[5:]).glob("sft/*"), key=lambda folder: folder.stat().st_mtime))["results"]


def test_long_solutions_are_counted(recipe, runs):
    results = _results(recipe, runs, 30)
    assert results["solutions"] == 12
    assert 0 < results["left_out"] + results["cut"] <= 12
    assert "cut" not in _results(recipe, runs, 256)


def test_prompts_that_fill_the_length_are_refused(recipe, runs):
    with pytest.raises(ConfigError, match=r"sft: 12 of 12 solutions .* training.max_length=3.* raise it"):
        _results(recipe, runs, 3)


def test_problems_without_solution_are_left_out_of_fine_tuning(recipe, runs, tmp_path):
    rows = [
        {"problem": f"What is {word} + {index}?", "answer": index, "level": 1}
        for index, word in enumerate(("one apple", "a pear tree", "no plum"))
    ]
    rows[0]["solution"] = "It is zero."
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": "Q?", "answer": "1", "level": 4}) + "\n")
    (recipe / "1_prepare.yaml").write_text(
        f"stage: prepare\nsource: jsonl\ntrain: {tmp_path}/train.jsonl\ntest: {tmp_path}/test.jsonl\n"
    )
    results = _results(recipe, runs, 256)
    assert (results["solutions"], results["without_solution"]) == (1, 2)
    del rows[0]["solution"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"no solutions with easy labels .*\(3 problems have an answer only\)"):
        _results(recipe, runs, 256)
