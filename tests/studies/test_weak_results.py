"""Tables of the weak-to-strong study on banks made by hand."""

import numpy as np
import pytest

from rlhf_e2h.studies.weak_to_strong.results import ScoredBank, against_reference, best_of_n, table

LEVELS = [1] * 10 + [4] * 60 + [5] * 60


def bank(seed, signal):
    """130 problems of 4 solutions, one score a method: noise plus `signal[method]` where the solution is right."""
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(len(LEVELS)), 4)
    correct = rng.random(len(problem)) < 0.5
    noise = rng.normal(size=len(problem))
    scores = {method: noise + strength * correct for method, strength in signal.items()}
    return ScoredBank(problem, correct, np.ones(len(problem), dtype=bool), scores)


STRENGTHS = {"weak": 0.3, "xent": 1.0, "ceiling": 2.0}


def find(rows, **wanted):
    return next(r for r in rows if all(r[k] == v for k, v in wanted.items()))


def test_pgr_is_the_ratio_of_the_table():
    rows = table([bank(s, STRENGTHS) for s in range(3)], LEVELS, (1, 2, 3), 500)
    weak, student, top = (find(rows, method=m, test_on="hard", metric="auc") for m in ("weak", "xent", "ceiling"))
    expected = (student["value"] - weak["value"]) / (top["value"] - weak["value"])
    assert student["pgr"] == pytest.approx(expected) and student["pgr_low"] < expected < student["pgr_high"]
    assert weak["low"] < weak["value"] < weak["high"] and "pgr" not in weak
    assert top["solutions"] == 3 * 480


def test_ceiling_no_better_than_weak_is_null():
    rows = table([bank(s, {**STRENGTHS, "ceiling": 0.3}) for s in range(3)], LEVELS, (1, 2, 3), 300)
    student = find(rows, method="xent", test_on="hard", metric="auc")
    assert student["pgr"] is None and "contains 0" in student["pgr_null_because"]


def test_a_level_without_problems_is_null():
    rows = table([bank(0, STRENGTHS)], LEVELS, (1, 2, 3), 100)
    row = find(rows, method="xent", test_on="level 2", metric="auc")
    assert "value" not in row and row["pgr_null_because"] == "no problems of this level"


def test_constant_scores_have_auc_one_half():
    rows = table([bank(0, STRENGTHS)], LEVELS, (1, 2, 3), 100)
    flat = bank(0, STRENGTHS)
    flat.scores["xent"][:] = 0.7
    row = find(table([flat], LEVELS, (1, 2, 3), 100), method="xent", test_on="hard", metric="auc")
    assert row["value"] == pytest.approx(0.5) and not any(
        isinstance(v, float) and v != v for r in rows for v in r.values()
    )


def test_best_of_n_by_hand():
    made = ScoredBank(
        np.array([0, 0, 1, 1, 2]), np.array([1, 0, 1, 0, 1], dtype=bool), np.array([1, 1, 1, 1, 0], dtype=bool),
        {"rm": np.array([0.2, 0.9, 0.5, 0.5, 0.9])},
    )  # fmt: skip
    # problem 0: the wrong one scores higher; problem 1: a tie goes to the first; problem 2: nothing finished
    assert best_of_n(made, "rm", 3).tolist() == [0, 1, 0]


def test_paired_tests_use_levels_and_seeds_as_units():
    rows = against_reference([bank(s, STRENGTHS) for s in range(3)], LEVELS, "weak", (4, 5))
    row = find(rows, method="ceiling", metric="auc")
    assert row["units"] == 6 and row["difference"] > 0.2 and row["t_p"] < 0.01
    # six positive differences: two-sided p = 2 / 2^6
    assert row["wilcoxon_p"] == pytest.approx(2 / 64)


def test_seeds_with_different_methods_are_an_error():
    with pytest.raises(ValueError, match="different methods"):
        table([bank(0, STRENGTHS), bank(1, {"weak": 1.0, "ceiling": 2.0})], LEVELS, (1, 2, 3))
    with pytest.raises(ValueError, match="no scores of 'ceiling'"):
        table([bank(0, {"weak": 1.0, "xent": 2.0})], LEVELS, (1, 2, 3))
