"""Expected values by hand."""

import pytest

from reward_models.records import Stepwise
from reward_models.score import StepScores
from rlhf_e2h.samples.quality import quality_by_group, within_problem_auc

# problem, right or wrong, score: a judge that knows which problem is easy, and in "b" prefers the wrong solutions
JUDGED = [("a", 1, 0.9), ("a", 1, 0.8), ("a", 0, 0.7), ("b", 0, 0.3), ("b", 1, 0.2), ("b", 0, 0.1), ("b", 0, 0.25)]


def _rows(judged):
    records = [Stepwise(problem, ["step"], None, outcome) for problem, outcome, _ in judged]
    return records, [StepScores(steps=[score], score=score) for *_, score in judged], [row[0] for row in judged]


def test_auc_among_solutions_of_one_problem():
    mean, (low, high) = within_problem_auc(*_rows(JUDGED))
    assert mean == pytest.approx((2 / 2 + 1 / 3) / 2)  # of "a" both pairs are in order, of "b" one of three
    assert (low, high) == pytest.approx((1 / 3, 1.0))  # problems are resampled
    records, scored, problems = _rows(JUDGED)
    quality = quality_by_group(records, scored, "orm", problems, [1] * 3 + [5] * 4, [1, 2, 3])
    assert quality["hard"]["within_problem_auc"] == pytest.approx(1 / 3)
    assert quality["all"]["outcome_auc"] == pytest.approx((4 + 4 + 1) / 12)  # of all pairs, most are in order


def test_a_problem_of_one_class_and_a_skipped_solution_say_nothing():
    records, scored, problems = _rows([*JUDGED, ("c", 1, 0.1), ("c", 1, 0.2)])
    assert within_problem_auc(records, scored, problems)[0] == pytest.approx(2 / 3)
    scored[2] = StepScores(skipped="too long")  # now "a" has no wrong one
    assert within_problem_auc(records, scored, problems)[0] == pytest.approx(1 / 3)
    assert within_problem_auc(*_rows([("c", 1, 0.5)])) == (None, None)
