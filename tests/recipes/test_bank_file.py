"""The bank of the real run that ships beside its recipe gives the figures of the recipe's README."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from reward_models.aggregate import aggregate
from reward_models.bank import build_bank, summarise
from reward_models.records import read_jsonl
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.samples.quality import length_correlation, length_warning

RECIPES = Path(__file__).parents[2] / "recipes"


def _rows(recipe="gsm8k-0.5b"):
    return read_jsonl(RECIPES / recipe / "bank" / "bank.jsonl.gz")


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
    hard = [row for row in _rows() if row["level"] == 4]
    bank = build_bank(hard, how, how, scores=model)
    assert bank.correct_PK.shape == (120, 8)
    summary = summarise(bank, sizes=[8], draws=1)
    found = {method: 100 * summary[method]["8"] for method in ("majority", "weighted_vote", "pass_at_n")}
    assert found == pytest.approx({"majority": 22.5, "weighted_vote": vote, "pass_at_n": 40.8}, abs=0.05)


@pytest.mark.parametrize("model, vote, best", [("prm", 5.8, 6.7), ("prm_full", 5.8, 5.0)])
def test_votes_on_math_are_those_of_the_readme(model, vote, best):
    hard = [row for row in _rows("math-0.5b") if row["level"] > 3]
    bank = build_bank(hard, scores=model)
    assert bank.correct_PK.shape == (120, 8)
    summary = summarise(bank, sizes=[8], draws=1)
    found = [100 * summary[method]["8"] for method in ("majority", "weighted_vote", "best_of_n", "pass_at_n")]
    assert found == pytest.approx([3.3, vote, best, 10.8], abs=0.05)


@pytest.mark.parametrize("recipe", ["gsm8k-0.5b", "math-0.5b"])
def test_answer_classes_of_the_bank_are_those_of_the_checker(recipe):
    groups = [list(rows) for _, rows in groupby(_rows(recipe), key=itemgetter("problem_id"))]
    with CheckerPool() as pool:
        for rows in groups:
            assert [row["answer_class"] for row in rows] == answer_classes([row["answer"] for row in rows], pool)
