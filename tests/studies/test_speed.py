"""Steps until a skill is there: crossings by hand, censoring, intervals."""

import numpy as np
import pytest

from rlhf_e2h.studies.speed import speed
from rlhf_e2h.studies.speed.measures import area, censored_interval, crossing, crossing_draws, ratio, thresholds


def test_a_sigmoid_is_crossed_where_it_should_be():
    steps = np.arange(0, 1001, 25)
    accuracy = 1 / (1 + np.exp(-(steps - 400) / 50))
    # logit(.9) = 2.197225: 400 + 50 * 2.197225 = 509.86
    assert crossing(steps, accuracy, 0.9).step == pytest.approx(509.86, abs=25)
    assert crossing(steps, accuracy, 0.9).step == pytest.approx(509.86, abs=1.5)  # interpolated, so closer than that


def test_interpolation_by_hand():
    assert crossing([0, 100, 200, 300], [0.0, 0.5, 0.9, 1.0], 0.7).step == pytest.approx(150)
    assert crossing([100, 200], [0.9, 0.9], 0.7).step == 100  # there from the first evaluation


def test_a_flat_curve_is_censored_and_a_spike_is_ignored():
    flat = crossing([0, 1, 2], [0.5, 0.5, 0.5], 0.9)
    assert flat.step is None
    assert "at most 0.500 in 3 evaluations" in flat.reason
    spike = [0.1, 0.95, 0.2, 0.5, 0.95, 0.96]
    assert crossing(range(6), spike, 0.9, window=2).step == pytest.approx(3 + 0.4 / 0.45)
    assert crossing(range(6), spike, 0.9, window=1).step == pytest.approx(0.8 / 0.85)
    assert crossing(range(2), [0.1, 0.95], 0.9, window=2).step is None  # one evaluation is not two


def test_area_is_the_mean_over_steps():
    assert area([0, 100, 400], [0.0, 1.0, 1.0]) == pytest.approx((50 + 300) / 400)
    assert area([7], [0.3]) == 0.3


def test_ratio_is_null_where_a_run_is_censored():
    fast, slow, never = crossing([0, 10], [0, 1], 0.5, 1), crossing([0, 40], [0, 1], 0.5, 1), crossing([0], [0], 0.5)
    assert ratio(slow, fast).step == pytest.approx(4)
    assert ratio(never, fast).step is None
    assert "baseline is censored" in ratio(never, fast).reason
    assert "this run is censored" in ratio(slow, never).reason
    assert "starts above" in ratio(slow, crossing([0], [1.0], 0.5, 1)).reason


def test_relative_threshold():
    assert thresholds([0.1, 0.4], 0.9, relative=True) == pytest.approx(0.36)
    assert thresholds([0.1, 0.4], 0.9, relative=False) == 0.9
    assert thresholds([0.0, 0.0], 0.9, relative=True) == 0.9


def test_draws_agree_with_the_curve_when_problems_are_alike():
    # two conditions whose problems all have the same curve: every resample gives the same crossing
    one = np.array([0.0, 0.4, 0.8, 1.0])
    correct = np.broadcast_to(np.stack([one, np.zeros(4)])[:, :, None, None], (2, 4, 6, 3))
    draws = crossing_draws([0, 10, 20, 30], correct, 0.6, window=2, draws=50)
    assert draws[:, 0] == pytest.approx(15.0)
    assert np.isinf(draws[:, 1]).all()


def test_interval_with_censored_draws_has_no_upper_bound():
    found = censored_interval(10.0, [8.0] * 90 + [np.inf] * 10)
    assert (found.low, found.high) == (8.0, None)
    assert "10% of the resamples are censored" in found.reason
    assert censored_interval(None, [1.0], "why").reason == "why"
    whole = censored_interval(5.0, np.arange(1001.0))
    assert (whole.low, whole.high, whole.reason) == (25.0, 975.0, None)


@pytest.mark.parametrize(
    ("steps", "accuracy", "message"),
    [
        ([0, 1], [0.5, float("nan")], "a level without items has no curve"),
        ([1, 0], [0.5, 0.5], "do not rise"),
        ([], [], "one of each per evaluation"),
    ],
)
def test_bad_curves(steps, accuracy, message):
    with pytest.raises(ValueError, match=message):
        crossing(steps, accuracy, 0.9)


def test_a_run_is_measured_by_what_the_baseline_is_at_its_end():
    """By hand: the baseline ends at .5, which the other run has after 15 of 20 steps; two of its four problems more."""
    base = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=float)[:, :, None]
    other = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=float)[:, :, None]
    config = speed.Config("data", {"base": "x", "other": "y"}, match=True, window=1, draws=200)
    first, second = speed.measure([0, 10, 20], {"base": base, "other": other}, ["1"] * 4, config, seed=0)
    assert (first["threshold"], first["step"], first["last"]) == (0.5, 20, 0.5)
    assert (second["step"], second["ratio"]) == (15, round(20 / 15, 2))
    assert second["last_difference"] == 0.25
    # areas: (0 + 0) / 2 and (0 + .5) / 2 against (0 + .25) / 2 and (.25 + .75) / 2
    assert second["area_difference"] == pytest.approx((0.125 + 0.5) / 2 - 0.125, abs=1e-4)
    # the threshold is that of the resample: the baseline reaches its own end in each, the other run too
    draws = crossing_draws([0, 10, 20], np.stack([base, other]), 0.5, 1, 200, match=0)
    assert np.isfinite(draws).all()
    assert draws.min() >= 0
    assert (draws[:, 1] <= draws[:, 0]).all()
    with pytest.raises(ValueError, match="set window: 1"):
        speed.Config("data", {"base": "x"}, match=True)
