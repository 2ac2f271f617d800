"""PGR and SGR: golden values, intervals, and null with a reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_e2h.stats.gaps import GapRatio, pgr, ratio_from_draws, sgr


def matrix(means, problems=400, seeds=3, noise=0):
    """Problems x seeds with exactly the given mean in every column, right on the same easy problems first."""
    order = np.random.default_rng(noise).permutation(problems)
    columns = []
    for _ in range(seeds):
        column = np.zeros(problems)
        column[order[: round(means * problems)]] = 1
        columns.append(column)
    return np.stack(columns, axis=1)


def test_golden_sgr():
    assert sgr(0.40, 0.52, 0.55).estimate == pytest.approx(0.80)


def test_pgr_of_numbers():
    assert pgr(0.5, 0.6, 0.9).estimate == pytest.approx(0.25)
    assert pgr(0.5, 0.95, 0.9).estimate == pytest.approx(1.125)  # above 1 is reported, not clipped
    assert pgr(0.5, 0.4, 0.9).estimate == pytest.approx(-0.25)


@pytest.mark.parametrize(("floor", "top"), [(0.5, 0.5), (0.6, 0.5)])
def test_numbers_without_a_gap_are_null_with_a_reason(floor, top):
    result = sgr(floor, 0.5, top)
    assert result.estimate is None and result.low is None and result.high is None
    assert result.reason == f"hard ({top:g}) is not above unsupervised ({floor:g})"


def test_matrices_give_the_ratio_of_their_means():
    # .40, .52, .55 of 400 problems: 160, 208, 220
    result = sgr(matrix(0.40), matrix(0.52), matrix(0.55))
    assert result.estimate == pytest.approx(0.80)
    assert result.low < 0.80 < result.high
    assert result.denominator.estimate == pytest.approx(0.15) and result.n == 400 and result.reason is None


def test_interval_of_nested_conditions_is_the_binomial_share():
    """Given that a problem is in the gap (60 of 400), it is recovered with p = .8: sd = sqrt(.8 * .2 / 60) = .0516."""
    result = sgr(matrix(0.40, seeds=1), matrix(0.52, seeds=1), matrix(0.55, seeds=1))
    assert (result.high - result.low) / (2 * 1.96) == pytest.approx(0.0516, rel=0.08)


def test_equal_conditions_are_null():
    same = matrix(0.5)
    result = pgr(same, same, same)
    assert result.estimate is None
    assert result.reason == "ceiling minus weak is 0.000 and its interval [0.000, 0.000] contains 0"


def test_a_gap_within_noise_is_null():
    result = pgr(matrix(0.50, 40, noise=1), matrix(0.52, 40, noise=2), matrix(0.55, 40, noise=3))
    assert result.estimate is None and "contains 0" in result.reason and result.denominator.low < 0


def test_a_ceiling_below_is_null():
    result = pgr(matrix(0.6), matrix(0.5), matrix(0.4))
    assert result.estimate is None and "lies below 0" in result.reason


def test_no_nan_no_infinity_near_the_limit():
    """Gaps of a few problems, on both sides of the limit: every result is finite or null."""
    seen = set()
    for extra in range(0, 16):
        floor = matrix(0.5, 60, 1)[:, 0]
        top = floor.copy()
        top[np.flatnonzero(floor == 0)[:extra]] = 1
        result = pgr(floor, (floor + top) / 2, top, draws=2_000, seed=extra)
        seen.add(result.estimate is None)
        if result.estimate is not None:
            assert all(math.isfinite(value) for value in (result.estimate, result.low, result.high))
            assert result.estimate == pytest.approx(0.5)
    assert seen == {True, False}


def test_draws_with_a_denominator_of_zero_are_left_out():
    draws = np.array([[0.0, 0.5, 1.0]] * 199 + [[0.0, 0.5, 0.0]])
    result = ratio_from_draws(draws, [0.0, 0.5, 1.0], n=10)
    assert (result.estimate, result.low, result.high) == (0.5, 0.5, 0.5)


def test_deterministic():
    arguments = (matrix(0.40), matrix(0.52, noise=1), matrix(0.75, noise=2))
    assert pgr(*arguments, seed=1) == pgr(*arguments, seed=1)
    assert pgr(*arguments, seed=1) != pgr(*arguments, seed=2)


def test_shapes_and_values_are_checked():
    with pytest.raises(ValueError, match="differ in shape: weak"):
        pgr(matrix(0.5), matrix(0.5, seeds=2), matrix(0.5))
    with pytest.raises(ValueError, match="expected a finite number"):
        pgr(0.1, math.nan, 0.3)
    with pytest.raises(ValueError, match=r"student ranges over"):
        pgr(matrix(0.5), matrix(0.5) * 100, matrix(0.5))


def test_default_is_usable():
    assert isinstance(pgr(matrix(0.2, 50, 1), matrix(0.4, 50, 1), matrix(0.8, 50, 1)), GapRatio)
