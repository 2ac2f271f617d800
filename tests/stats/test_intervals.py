"""Intervals against SciPy, hand calculation and the variance that theory gives."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from rlhf_e2h.stats.intervals import (
    bootstrap_mean,
    bootstrap_means,
    interval_from_draws,
    paired_difference,
    wilson,
)


def bernoulli(shape, p=0.5, seed=0):
    return (np.random.default_rng(seed).random(shape) < p).astype(float)


@pytest.mark.parametrize(("successes", "n"), [(8, 10), (0, 12), (12, 12), (1, 500), (250, 500)])
def test_wilson_equals_scipy(successes, n):
    ours = wilson(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.estimate == successes / n and ours.n == n


def test_wilson_has_width_at_the_ends():
    # 12 of 12: low = n / (n + z^2) = 12 / 15.8415
    assert wilson(12, 12).low == pytest.approx(12 / (12 + 1.959964**2), abs=1e-6)
    assert wilson(12, 12).high == 1.0
    assert wilson(0, 12).low == 0.0


@pytest.mark.parametrize(
    ("successes", "n", "level", "words"),
    [(0, 0, 0.95, "n = 0"), (5, 4, 0.95, "successes = 5"), (-1, 4, 0.95, "successes"), (1, 4, 95, "level = 95")],
)
def test_wilson_names_what_is_wrong(successes, n, level, words):
    with pytest.raises(ValueError, match=words):
        wilson(successes, n, level)


def test_one_seed_has_the_variance_of_the_mean():
    # resampling P problems: Var = population variance / P
    correct = bernoulli((400, 1), 0.3)
    draws = bootstrap_means(correct[None], draws=20_000, seed=3)[:, 0]
    assert draws.mean() == pytest.approx(correct.mean(), abs=1e-3)
    assert draws.var() == pytest.approx(correct.var() / 400, rel=0.04)


def test_one_seed_agrees_with_scipy_bootstrap():
    correct = bernoulli(150, 0.7, seed=2)
    ours = bootstrap_mean(correct)
    theirs = stats.bootstrap(
        (correct,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.011)  # two steps of 1/150


def test_seeds_are_resampled():
    # no variance between problems: all of it comes from two seeds at .2 and .6; a resample holds 0, 1 or 2 of each
    values = np.repeat([[0.2, 0.6]], 50, axis=0)
    draws = bootstrap_means(values[None], draws=8_000)[:, 0]
    share = {mean: np.isclose(draws, mean).mean() for mean in (0.2, 0.4, 0.6)}
    assert share[0.2] == pytest.approx(0.25, abs=0.02)
    assert share[0.4] == pytest.approx(0.50, abs=0.02)
    assert share[0.6] == pytest.approx(0.25, abs=0.02)


def test_grid_variance_is_owens():
    """Additive matrix a_p + b_s: Var = var(a)/P + var(b)/S with population variances (no interaction)."""
    rng = np.random.default_rng(5)
    values = rng.normal(0.0, 1.0, (60, 1)) + rng.normal(0.0, 0.5, (1, 4))
    draws = bootstrap_means(values[None], draws=20_000)[:, 0]
    expected = values.mean(axis=1).var() / 60 + values.mean(axis=0).var() / 4
    assert draws.var() == pytest.approx(expected, rel=0.05)


def test_conditions_share_their_resamples():
    correct = bernoulli((80, 3), 0.6)
    draws = bootstrap_means(np.stack([correct, correct * 0.5]), draws=50)
    assert draws[:, 1] == pytest.approx(draws[:, 0] * 0.5)


def test_pairing_removes_what_is_common():
    """Treatment is right wherever baseline is, and on 20 of 200 problems more: the difference varies, the base not."""
    baseline = bernoulli(200, 0.5, seed=1)
    treatment = baseline.copy()
    gained = np.flatnonzero(baseline == 0)[:20]
    treatment[gained] = 1
    difference = paired_difference(treatment, baseline)
    assert difference.estimate == pytest.approx(0.1)
    # binomial with 20 of 200: standard deviation sqrt(.1 * .9 / 200) = .0212; unpaired it would be .05
    assert (difference.high - difference.low) / (2 * 1.96) == pytest.approx(0.0212, rel=0.06)
    assert difference.excludes(0.0) and not difference.excludes(0.1)
    assert difference.n == 200


def test_identical_conditions_differ_by_nothing():
    correct = bernoulli((50, 3))
    difference = paired_difference(correct, correct)
    assert (difference.estimate, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert not difference.excludes(0.0)


def test_same_seed_same_bytes_other_seed_other_draws():
    correct = bernoulli((40, 2))[None]
    assert bootstrap_means(correct, 500, seed=7).tobytes() == bootstrap_means(correct, 500, seed=7).tobytes()
    assert bootstrap_means(correct, 500, seed=7).tobytes() != bootstrap_means(correct, 500, seed=8).tobytes()


def test_always_right_falls_back_on_wilson():
    interval = bootstrap_mean(np.ones((30, 3)))
    assert (interval.low, interval.high, interval.n) == (wilson(30, 30).low, 1.0, 30)


def test_ten_thousand_draws_of_500_by_5_take_less_than_two_seconds():
    correct = bernoulli((500, 5))
    start = time.process_time()  # processor time: a busy machine is no fault of ours
    bootstrap_mean(correct, draws=10_000)
    assert time.process_time() - start < 2.0


def test_quantiles_of_known_draws():
    interval = interval_from_draws(np.arange(0, 1001), 500, n=3)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((500, 25, 975))
    assert interval.n == 3


@pytest.mark.parametrize(
    ("treatment", "baseline", "words"),
    [
        (np.zeros((4, 2)), np.zeros((4, 1)), "differ in shape"),
        (np.zeros((4, 2)), np.zeros((2, 4)), "differ in shape"),
        (np.full((4, 2), 85.0), np.zeros((4, 2)), r"\[85, 85\]"),
        (np.full((4, 2), np.nan), np.zeros((4, 2)), "NaN"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least one"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), "problems x seeds"),
    ],
)
def test_bad_matrices_are_named(treatment, baseline, words):
    with pytest.raises(ValueError, match=words):
        paired_difference(treatment, baseline)


@pytest.mark.parametrize(
    ("values", "draws", "words"),
    [
        (np.zeros((4, 2)), 10, "conditions x problems x seeds"),
        (np.zeros((1, 0, 2)), 10, "every axis"),
        (np.zeros((1, 4, 2)), 0, "draws = 0"),
        (np.full((1, 4, 2), np.inf), 10, "infinity"),
    ],
)
def test_bad_stacks_are_named(values, draws, words):
    with pytest.raises(ValueError, match=words):
        bootstrap_means(values, draws)
