"""Ratios of gaps between three conditions, with intervals, or null with the reason why there is none.

PGR, performance gap recovered = (student - weak) / (ceiling - weak)            Burns et al., arXiv 2312.09390
SGR, supervision gap recovered = (easy - unsupervised) / (hard - unsupervised)  Hase et al., arXiv 2401.06751

Both are the same ratio. Values above 1 and below 0 are reported as they are: easy-only training sometimes beats full
training. A denominator that is not clearly positive (its interval reaches 0 or lies below) makes the ratio meaningless,
so it is null with a reason; a ratio is never NaN and never infinite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_e2h.stats.intervals import (
    DRAWS,
    Interval,
    bootstrap_means,
    checked_matrix,
    interval_from_draws,
    require_same_shape,
)

SMALLEST_GAP = 1e-12  # below this, two plain numbers count as equal


@dataclass(frozen=True)
class GapRatio:
    """`estimate` with its interval, or None for all three and a `reason`. `denominator` is there in both cases.

    `low` and `high` are None as well when the ratio was made from plain numbers.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None
    denominator: Interval | None = None


def pgr(weak: ArrayLike, student: ArrayLike, ceiling: ArrayLike, draws: int = DRAWS, seed: int = 0) -> GapRatio:
    """Performance gap recovered. Numbers give the ratio alone; matrices problems x seeds give it with an interval."""
    return _ratio(weak, student, ceiling, ("weak", "student", "ceiling"), draws, seed)


def sgr(unsupervised: ArrayLike, easy: ArrayLike, hard: ArrayLike, draws: int = DRAWS, seed: int = 0) -> GapRatio:
    """Supervision gap recovered. Numbers give the ratio alone; matrices problems x seeds give it with an interval."""
    return _ratio(unsupervised, easy, hard, ("unsupervised", "easy", "hard"), draws, seed)


def ratio_from_draws(
    means_DC: ArrayLike, means_C: ArrayLike, n: int, names: tuple[str, str, str] = ("weak", "student", "ceiling")
) -> GapRatio:
    """The ratio from joint bootstrap means of (floor, middle, top), one column each, and the means of the data.

    Draws whose denominator is not positive (fewer than 2.5 % of them, or the result is null) are left out.
    """
    floor_D, middle_D, top_D = np.asarray(means_DC, dtype=np.float64).T
    floor, middle, top = (float(mean) for mean in np.asarray(means_C, dtype=np.float64))
    denominator = interval_from_draws(top_D - floor_D, top - floor, n)
    # rounding noise in the draws of two equal conditions must not count as a gap
    if denominator.low <= SMALLEST_GAP:
        where = "contains 0" if denominator.high >= -SMALLEST_GAP else "lies below 0"
        reason = (
            f"{names[2]} minus {names[0]} is {denominator.estimate:.3f} and its interval "
            f"[{denominator.low:.3f}, {denominator.high:.3f}] {where}"
        )
        return GapRatio(None, None, None, n, reason, denominator)
    usable_D = top_D - floor_D > 0
    ratios_D: NDArray[np.float64] = (middle_D - floor_D)[usable_D] / (top_D - floor_D)[usable_D]
    interval = interval_from_draws(ratios_D, (middle - floor) / (top - floor), n)
    return GapRatio(interval.estimate, interval.low, interval.high, n, None, denominator)


def _ratio(
    floor: ArrayLike, middle: ArrayLike, top: ArrayLike, names: tuple[str, str, str], draws: int, seed: int
) -> GapRatio:
    if all(np.ndim(value) == 0 for value in (floor, middle, top)):
        return _plain_ratio(float(np.asarray(floor)), float(np.asarray(middle)), float(np.asarray(top)), names)
    matrices = {name: checked_matrix(value, name) for name, value in zip(names, (floor, middle, top), strict=True)}
    require_same_shape(**matrices)
    values_CPS = np.stack(list(matrices.values()))
    means_DC = bootstrap_means(values_CPS, draws, seed)
    return ratio_from_draws(means_DC, values_CPS.mean(axis=(1, 2)), values_CPS.shape[1], names)


def _plain_ratio(floor: float, middle: float, top: float, names: tuple[str, str, str]) -> GapRatio:
    for name, value in zip(names, (floor, middle, top), strict=True):
        if not np.isfinite(value):
            raise ValueError(f"{name} = {value}; expected a finite number")
    if top - floor <= SMALLEST_GAP:
        reason = f"{names[2]} ({top:g}) is not above {names[0]} ({floor:g})"
        return GapRatio(None, None, None, 0, reason)
    return GapRatio((middle - floor) / (top - floor), None, None, 0, None)
