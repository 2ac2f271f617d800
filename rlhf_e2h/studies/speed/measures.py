"""Speed of learning: how many steps until a skill is there.

After Yao Fu's "speed of grokking", in an operational form: s(tau) is the first step at which accuracy is at least tau
for `window` evaluations in a row, interpolated between it and the evaluation before. A curve that never gets there is
censored: its speed is unknown, not zero. Every skill has its own curve; their mean hides steps (Michaud et al.,
arXiv 2303.13506), so both are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_e2h.stats.intervals import DRAWS, bootstrap_means

TAIL = 0.025  # of draws on each side of a 95 % interval


@dataclass(frozen=True)
class Crossing:
    """The step at which a threshold was reached, or None with the reason."""

    step: float | None
    reason: str | None = None


@dataclass(frozen=True)
class SpeedInterval:
    """A figure with a bootstrap interval; None where it, or a bound, is censored, with the reason."""

    estimate: float | None
    low: float | None
    high: float | None
    reason: str | None = None


def crossing(steps_E: ArrayLike, accuracy_E: ArrayLike, threshold: float, window: int = 2) -> Crossing:
    """First step with accuracy >= threshold for `window` evaluations in a row, linearly interpolated.

    Args:
        steps_E: steps of the E evaluations, rising. accuracy_E: in [0, 1].

    Raises:
        ValueError: no evaluation, shapes or order wrong, NaN, or a threshold outside (0, 1].
    """
    steps_E, accuracy_E = _checked(steps_E, accuracy_E)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must lie above 0 and at most at 1")
    if window < 1:
        raise ValueError(f"window is {window}; at least one evaluation must reach the threshold")
    found = int(_first(accuracy_E[None], np.array([threshold]), window)[0])
    if found < 0:
        best = f"at most {accuracy_E.max():.3f} in {len(steps_E)} evaluations"
        return Crossing(None, f"never {threshold:g} for {window} evaluations in a row: {best}")
    return Crossing(float(_interpolate(steps_E, accuracy_E[None], np.array([found]), np.array([threshold]))[0]))


def area(steps_E: ArrayLike, accuracy_E: ArrayLike) -> float:
    """Mean accuracy over the steps, by the trapezoid rule; one evaluation stands for itself."""
    steps_E, accuracy_E = _checked(steps_E, accuracy_E)
    if len(steps_E) == 1:
        return float(accuracy_E[0])
    return float(np.trapezoid(accuracy_E, steps_E) / (steps_E[-1] - steps_E[0]))


def ratio(baseline: Crossing, other: Crossing) -> Crossing:
    """How many times faster `other` is than the baseline: s_baseline / s_other; None if either is censored."""
    for name, one in (("the baseline", baseline), ("this run", other)):
        if one.step is None:
            return Crossing(None, f"{name} is censored ({one.reason})")
    assert baseline.step is not None and other.step is not None
    if other.step == 0:
        return Crossing(None, "this run starts above the threshold")
    return Crossing(baseline.step / other.step)


def crossing_draws(
    steps_E: ArrayLike, correct_CEPS: ArrayLike, threshold: float, window: int = 2, draws: int = DRAWS, seed: int = 0,
    match: int | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """s(tau) of C conditions in bootstrap resamples of problems and seeds, (draws, C); infinite where censored.

    Args:
        correct_CEPS: conditions x evaluations x problems x seeds, in [0, 1]; the resamples are the same for all
            conditions and evaluations, so ratios and differences are paired.
        match: number of the condition whose last accuracy in each resample takes the place of the threshold.
    """
    steps_E = np.asarray(steps_E, dtype=np.float64)
    correct_CEPS = np.asarray(correct_CEPS, dtype=np.float64)
    conditions, evaluations, problems, seeds = correct_CEPS.shape
    flat = correct_CEPS.reshape(conditions * evaluations, problems, seeds)
    means_DCE = bootstrap_means(flat, draws, seed).reshape(draws, conditions, evaluations)
    found = np.full((draws, conditions), np.inf)
    threshold_D = np.full(draws, threshold) if match is None else means_DCE[:, match, -1]
    for condition in range(conditions):
        curves = means_DCE[:, condition]
        first_D = _first(curves, threshold_D, window)
        reached = first_D >= 0
        found[reached, condition] = _interpolate(steps_E, curves[reached], first_D[reached], threshold_D[reached])
    return found


def censored_interval(estimate: float | None, draws_D: ArrayLike, reason: str | None = None) -> SpeedInterval:
    """Percentile interval of draws that may be infinite: a bound that is, is None, and the reason says so."""
    draws_D = np.sort(np.asarray(draws_D, dtype=np.float64))
    if not len(draws_D) or estimate is None:
        return SpeedInterval(None, None, None, reason or "censored")
    low, high = (float(draws_D[round(q * (len(draws_D) - 1))]) for q in (TAIL, 1 - TAIL))
    open_end = None
    if not np.isfinite(high):
        open_end = f"no upper bound: {np.mean(~np.isfinite(draws_D)):.0%} of the resamples are censored"
    return SpeedInterval(estimate, low if np.isfinite(low) else None, high if np.isfinite(high) else None, open_end)


def _first(curves_DE: NDArray[np.float64], threshold_D: NDArray[np.float64], window: int) -> NDArray[np.intp]:
    """Index of the first evaluation of a run of `window` at or above the threshold, -1 without one."""
    above_DE = curves_DE >= threshold_D[:, None] - 1e-12
    evaluations = above_DE.shape[1]
    if window > evaluations:
        return np.full(len(curves_DE), -1)
    runs_DE = np.ones((len(curves_DE), evaluations - window + 1), dtype=bool)
    for offset in range(window):
        runs_DE &= above_DE[:, offset : evaluations - window + 1 + offset]
    return np.where(runs_DE.any(axis=1), runs_DE.argmax(axis=1), -1)


def _interpolate(
    steps_E: NDArray[np.float64],
    curves_DE: NDArray[np.float64],
    first_D: NDArray[np.intp],
    threshold_D: NDArray[np.float64],
) -> NDArray[np.float64]:
    rows = np.arange(len(curves_DE))
    before_D = np.maximum(first_D - 1, 0)
    low_D, high_D = curves_DE[rows, before_D], curves_DE[rows, first_D]
    # an evaluation before that was above already (a spike) says nothing about where the rise began
    rise_D = np.where(high_D > low_D, high_D - low_D, 1.0)
    share_D = np.where(high_D > low_D, np.clip((threshold_D - low_D) / rise_D, 0, 1), 1.0)
    return np.where(first_D == 0, steps_E[0], steps_E[before_D] + share_D * (steps_E[first_D] - steps_E[before_D]))


def _checked(steps_E: ArrayLike, accuracy_E: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    steps_E, accuracy_E = np.asarray(steps_E, dtype=np.float64), np.asarray(accuracy_E, dtype=np.float64)
    if steps_E.ndim != 1 or steps_E.shape != accuracy_E.shape or not len(steps_E):
        raise ValueError(f"{steps_E.shape} steps and {accuracy_E.shape} accuracies; give one of each per evaluation")
    if not np.isfinite(accuracy_E).all() or accuracy_E.min() < 0 or accuracy_E.max() > 1:
        raise ValueError("accuracies must be numbers in [0, 1]; a level without items has no curve, so leave it out")
    if (np.diff(steps_E) <= 0).any():
        raise ValueError(f"steps {steps_E.tolist()} do not rise; sort them and give each once")
    return steps_E, accuracy_E


def thresholds(accuracy_E: Sequence[float], threshold: float, relative: bool) -> float:
    """The threshold of a curve: as given, or that share of the curve's best where skills are too hard for it."""
    return threshold * max(accuracy_E) if relative and max(accuracy_E) > 0 else threshold
