"""The bank of the real run that ships beside its recipe gives the figures of the recipe's README."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from reward_models.aggregate import aggregate
from reward_models.voting import curve
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.samples.quality import length_correlation, length_warning

BANK = Path(__file__).parents[2] / "recipes/gsm8k-0.5b/bank/bank.jsonl.gz"


def _rows():
    return [json.loads(line) for line in gzip.decompress(BANK.read_bytes()).splitlines()]


def test_the_product_of_a_model_that_hardly_learnt_follows_the_number_of_steps():
    rows = _rows()
    steps = [len(row["step_scores"]["prm"]) for row in rows]
    products = [aggregate(row["step_scores"]["prm"], "prod") for row in rows]
    said = length_warning("prm", "prod", products, steps)
    assert said is not None and said.startswith("prm: the prod of its step scores follows the number of steps")
    assert "one for short solutions" in said
    assert length_warning("prm", "mean", [aggregate(row["step_scores"]["prm"], "mean") for row in rows], steps) is None
    # ranks 1.5, 1.5, 3.5, 3.5 against 4, 3, 2, 1: the Pearson correlation of the ranks is -4 / sqrt(4 * 5)
    assert length_correlation([0.8, 0.7, 0.6, 0.5], [1, 1, 2, 2]) == pytest.approx(-4 / 20**0.5)
    assert length_correlation([0.8, 0.7], [2, 2]) is None


@pytest.mark.parametrize("model, how, vote", [("orm", "last", 22.5), ("prm", "prod", 16.7), ("prm_math", "prod", 20.0)])
def test_votes_of_the_bank_are_those_of_the_readme(model, how, vote):
    rows = _rows()
    hard = [row for row in rows if row["level"] == 4]
    shape = (len(hard) // 8, 8)
    assert shape == (120, 8)
    with CheckerPool() as pool:
        groups = [[row["answer"] for row in hard[start : start + 8]] for start in range(0, len(hard), 8)]
        classes_PK = np.array([answer_classes(answers, pool) for answers in groups])
    correct_PK = np.array([row["correct"] for row in hard]).reshape(shape)
    weights_PK = np.array([aggregate(row["step_scores"][model], how) for row in hard]).reshape(shape)
    curves = curve(classes_PK, correct_PK, weights_PK, sizes=[8], draws=1, seed=0)
    found = {method: 100 * float(np.mean(curves[method][8])) for method in ("majority", "weighted_vote", "pass_at_n")}
    assert found == pytest.approx({"majority": 22.5, "weighted_vote": vote, "pass_at_n": 40.8}, abs=0.05)
