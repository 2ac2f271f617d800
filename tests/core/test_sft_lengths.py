"""Solutions that are too long for fine-tuning: counted, and refused where nothing is left."""

from pathlib import Path

import pytest

from rlhf_e2h.config import ConfigError
from rlhf_e2h.pipeline import run_recipe
from rlhf_e2h.recipe import load_recipe
from rlhf_e2h.run_files import read_done


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
