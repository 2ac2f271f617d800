"""Expected values by hand; AUC also against scipy's Mann-Whitney statistic."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from reward_models import metrics


def test_auc_by_hand():
    assert metrics.auc([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == 0.75  # 3 of 4 pairs in order
    assert metrics.auc([1, 0], [0.5, 0.5]) == 0.5
    assert metrics.auc([1, 1], [0.1, 0.2]) is None


def test_auc_matches_scipy_with_ties():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.integers(0, 20, 200) / 20
    positive, negative = scores[labels == 1], scores[labels == 0]
    expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert metrics.auc(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_accuracy_and_calibration():
    assert metrics.accuracy([1, 0, 0, 1], [0.5, 0.4, 0.6, 0.9]) == 0.75
    assert metrics.accuracy([], []) is None
    # two bins used: 0.9 twice with labels 1, 0 -> gap 0.4; 0.1 twice with labels 0, 0 -> gap 0.1; mean 0.25
    assert metrics.calibration_error([1, 0, 0, 0], [0.9, 0.9, 0.1, 0.1]) == pytest.approx(0.25)
    assert metrics.calibration_error([1], [1.0]) == 0.0


def test_balanced_accuracy_is_that_of_scikit_learn():
    score = pytest.importorskip("sklearn.metrics").balanced_accuracy_score
    rng = np.random.default_rng(2)
    labels, probs = (rng.uniform(size=200) < 0.9).astype(int), rng.uniform(size=200)
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(score(labels, probs >= 0.5), abs=1e-12)
    # nine ones, eight of them right, and one zero, wrong: 80 % are right, on a balanced set (8/9 + 0) / 2
    ones = [1] * 9 + [0]
    assert metrics.balanced_accuracy(ones, [0.9] * 8 + [0.1, 0.9]) == pytest.approx(4 / 9)
    assert metrics.balanced_accuracy([1, 1], [0.9, 0.9]) is None and metrics.balanced_accuracy([], []) is None


def test_roc_curve_is_that_of_scikit_learn_and_has_the_same_area():
    curve = pytest.importorskip("sklearn.metrics").roc_curve
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 300)
    scores = np.round(np.clip(0.3 * labels + 0.7 * rng.uniform(size=300), 0, 1), 2)  # with ties
    rows = metrics.roc_curve(labels, scores, most=1000)
    x, y, _ = curve(labels, scores, drop_intermediate=False)
    assert [row["false_positive"] for row in rows] == pytest.approx(x)
    assert [row["true_positive"] for row in rows] == pytest.approx(y)
    few = metrics.roc_curve(labels, scores, most=20)
    assert len(few) == 21 and few[-1]["true_positive"] == few[-1]["false_positive"] == 1.0
    assert metrics.roc_curve([1, 1], [0.2, 0.3]) == []


def test_calibration_curve_is_that_of_scikit_learn():
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(1)
    probs = rng.uniform(0.2, 1.0, 300)  # the two lowest bins stay empty
    labels = (rng.uniform(size=300) < probs**2).astype(int)
    rows = metrics.calibration_curve(labels, probs)
    observed, stated = curve(labels, probs, n_bins=10)
    assert [row["observed"] for row in rows] == pytest.approx(observed, abs=1e-12)
    assert [row["score"] for row in rows] == pytest.approx(stated, abs=1e-12)
    assert [row["low"] for row in rows] == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert sum(row["n"] for row in rows) == 300
    assert metrics.calibration_curve([], []) == []


def test_first_error_f1():
    probs = [[0.9, 0.2, 0.1], [0.9, 0.9], [0.4, 0.9], [0.8, 0.7]]
    gold = [1, -1, 1, 0]
    # wrong solutions: located 1 of 3 (first yes; third says 0 not 1; fourth says -1 not 0); right ones: 1 of 1
    result = metrics.first_error_f1(gold, probs)
    assert result["error"] == pytest.approx(1 / 3)
    assert result["correct"] == 1.0
    assert result["f1"] == pytest.approx(0.5)
    assert metrics.first_error_f1([-1], [[0.9]])["f1"] is None


def test_histogram_counts_the_right_edge():
    assert metrics.histogram([0.0, 0.05, 1.0], bins=10) == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ValueError, match="-1"):
        metrics.auc([-1, 1], [0.1, 0.2])
