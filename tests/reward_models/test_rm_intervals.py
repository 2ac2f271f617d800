"""Intervals against other routes to the same number: copies of items, scikit-learn's weights, an exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from reward_models.evaluation import compare
from reward_models.intervals import curve_intervals, intervals
from reward_models.metrics import calibration_error, weighted_auc, weighted_calibration_error
from reward_models.records import Stepwise
from reward_models.score import StepScores


def test_a_weight_is_a_number_of_copies():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 40), np.round(rng.random(40), 1)  # with ties
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    wanted = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    assert weighted_auc(labels, scores, weights) == pytest.approx(wanted)
    copies = [
        calibration_error(np.repeat(labels, row.astype(int)), np.repeat(scores, row.astype(int))) for row in weights
    ]
    assert weighted_calibration_error(labels, scores, weights) == pytest.approx(copies)
    assert np.isnan(weighted_auc([1, 1], [0.1, 0.2], np.ones((1, 2)))).all()


def _bank():
    """Two solutions of each of three problems: right/wrong, scores known."""
    rows = [("a", [1, 1], 1, [0.9, 0.8]), ("a", [1, 0], 0, [0.7, 0.85]), ("b", [1, 1], 1, [0.6, 0.9]),
            ("b", [0, None], 0, [0.65, 0.3]), ("c", [1, 0], 0, [0.95, 0.2]), ("c", [1, 1], 1, [0.5, 0.4])]  # fmt: skip
    records = [Stepwise(name, ["x", "y"], labels, outcome) for name, labels, outcome, _ in rows]
    return [row[0] for row in rows], records, [StepScores(steps=row[3], score=min(row[3])) for row in rows]


def test_the_interval_is_that_of_all_ways_to_draw_three_problems():
    """27 ordered draws of three problems are equally likely: the percentiles over them are exact."""
    problems, records, scored = _bank()
    names = ("auc", "accuracy", "balanced_accuracy")
    found = {f"{part}_{name}": [] for part in ("step", "outcome") for name in names}
    found |= {"calibration_error": [], "first_error_f1": []}
    for draw in itertools.product("abc", repeat=3):
        chosen = [i for name in draw for i, other in enumerate(problems) if other == name]
        measured = compare([records[i] for i in chosen], [scored[i] for i in chosen], "prm")
        measured["first_error_f1"] = measured["first_error"]["f1"]
        for metric, values in found.items():
            assert measured[metric] is not None
            values.append(measured[metric])
    ends = intervals(records, scored, "prm", problems, draws=20_000)
    for metric, values in found.items():
        low, high = np.percentile(np.repeat(values, 741), [2.5, 97.5], method="inverted_cdf")
        assert ends[metric] == pytest.approx((low, high), abs=0.02), metric


def test_repeats_of_a_problem_do_not_make_it_narrower():
    problems, records, scored = _bank()
    once = intervals(records, scored, "prm", problems)["outcome_auc"]
    assert intervals(records * 5, scored * 5, "prm", problems * 5)["outcome_auc"] == pytest.approx(once)


def test_nothing_to_tell_apart_is_no_interval():
    problems, records, scored = _bank()
    right = [i for i, record in enumerate(records) if record.outcome]
    ends = intervals([records[i] for i in right], [scored[i] for i in right], "prm", [problems[i] for i in right])
    assert ends["outcome_auc"] is None and ends["first_error_f1"] is None and ends["calibration_error"] is not None


def test_an_outcome_model_is_calibrated_at_its_last_word():
    problems, records, scored = _bank()
    low, high = intervals(records, scored, "orm", problems)["calibration_error"]
    value = compare(records, scored, "orm")["calibration_error"]
    assert low <= value <= high and (low, high) != intervals(records, scored, "prm", problems)["calibration_error"]


def test_points_of_the_calibration_curve_have_the_intervals_of_all_draws():
    problems, records, scored = _bank()
    curve = compare(records, scored, "prm")["calibration_curve"]
    found = {point["low"]: [] for point in curve}
    for draw in itertools.product("abc", repeat=3):
        chosen = [i for name in draw for i, other in enumerate(problems) if other == name]
        drawn = compare([records[i] for i in chosen], [scored[i] for i in chosen], "prm")["calibration_curve"]
        for point in drawn:
            found[point["low"]].append(point["observed"])
    ends = curve_intervals(records, scored, "prm", problems, draws=20_000)
    assert len(ends) == len(curve) > 3
    for point, interval in zip(curve, ends, strict=True):
        values = found[point["low"]]
        if 2 * len(values) <= 27:  # most draws leave the bin empty
            assert interval is None
        else:
            low, high = np.percentile(np.repeat(values, 741), [2.5, 97.5], method="inverted_cdf")
            assert interval == pytest.approx((low, high), abs=0.02), point


def test_the_curve_of_an_outcome_model_is_of_outcomes():
    problems, records, scored = _bank()
    curve, ends = (
        compare(records, scored, "orm")["calibration_curve"],
        curve_intervals(records, scored, "orm", problems),
    )
    assert len(ends) == len(curve) and sum(point["n"] for point in curve) == len(records)
