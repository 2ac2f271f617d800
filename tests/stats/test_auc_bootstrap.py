"""AUC draws against scikit-learn on resampled rows, and what has no AUC."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rlhf_e2h.stats.auc import auc_kernel, bootstrap_aucs
from rlhf_e2h.stats.gaps import ratio_from_draws


def bank(seed=0, problems=30, k=4, signal=1.0):
    rng = np.random.default_rng(seed)
    correct = rng.random((problems, k)) < rng.random((problems, 1))
    scores = np.round(rng.normal(size=(problems, k)) + signal * correct, 1)  # rounded: ties
    return scores.ravel(), correct.ravel(), np.repeat(np.arange(problems), k)


def test_estimate_equals_scikit_learn_with_ties():
    scores, correct, problem = bank()
    assert auc_kernel(scores, correct, problem, 30).estimate() == pytest.approx(
        roc_auc_score(correct, scores), abs=1e-12
    )


def test_constant_scores_give_one_half():
    _, correct, problem = bank()
    assert auc_kernel(np.zeros(120), correct, problem, 30).estimate() == pytest.approx(0.5)


def test_draws_are_aucs_of_resampled_problems():
    """The first draws, remade by repeating the rows of each problem as often as it was drawn."""
    scores, correct, problem = bank()
    result = bootstrap_aucs([[auc_kernel(scores, correct, problem, 30)]], draws=5, seed=3)
    counts_DP = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=5)
    for draw, counts_P in zip(result[0][:, 0], counts_DP, strict=True):
        rows = np.repeat(np.arange(120), counts_P[problem])
        assert draw == pytest.approx(roc_auc_score(correct[rows], scores[rows]), abs=1e-12)


def test_same_condition_twice_differs_by_nothing_and_pgr_is_null():
    kernel = auc_kernel(*bank(), 30)
    draws_DC, means_C = bootstrap_aucs([[kernel], [kernel], [kernel]], draws=200)
    assert (draws_DC[:, 0] == draws_DC[:, 1]).all()
    result = ratio_from_draws(draws_DC, means_C, 30)
    assert result.estimate is None and "contains 0" in result.reason


def test_one_class_has_a_reason():
    scores, _, problem = bank()
    assert auc_kernel(scores, np.ones(120), problem, 30).estimate() is None
    assert "all right or all wrong" in bootstrap_aucs([[auc_kernel(scores, np.ones(120), problem, 30)]], 10)
    rare = np.arange(120) == 0  # one problem holds the only right solution: absent from 37 % of the draws
    assert "absent from 3" in bootstrap_aucs([[auc_kernel(scores, rare, problem, 30)]], 2000)


def test_bad_scores_are_named():
    with pytest.raises(ValueError, match="not scored"):
        auc_kernel([np.nan], [1], [0], 1)
    with pytest.raises(ValueError, match="allowed: 0 to 0"):
        auc_kernel([0.5], [1], [3], 1)


def test_wins_of_each_pair_of_problems_are_those_counted_pair_by_pair():
    scores, correct, problem = bank(problems=7)
    expected = np.zeros((7, 7))
    for mine, right, p in zip(scores, correct, problem, strict=True):
        for theirs, also, q in zip(scores, correct, problem, strict=True):
            if right and not also:
                expected[p, q] += 1.0 if mine > theirs else 0.5 if mine == theirs else 0.0
    assert (auc_kernel(scores, correct, problem, 7).wins == expected).all()
    assert (auc_kernel([], [], [], 3).wins == np.zeros((3, 3))).all()


def test_sixty_thousand_solutions_take_seconds_not_minutes():
    """500 problems x 128: comparing all pairs would be a billion comparisons."""
    rng = np.random.default_rng(0)
    correct, problem = rng.random(64_000) < 0.5, np.repeat(np.arange(500), 128)
    scores = rng.random(64_000) + 0.2 * correct
    started = time.process_time()
    kernel = auc_kernel(scores, correct, problem, 500)
    assert time.process_time() - started < 10
    assert kernel.estimate() == pytest.approx(roc_auc_score(correct, scores), abs=1e-12)
