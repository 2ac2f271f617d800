"""AUC of several ways to judge the same items, with intervals over problems and repeats, and ratios of their gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_e2h.stats.auc import auc_kernel, bootstrap_aucs
from rlhf_e2h.stats.gaps import ratio_from_draws
from rlhf_e2h.stats.intervals import DRAWS, interval_from_draws

Row = dict[str, Any]
Scores = Mapping[str, NDArray[np.floating]]  # method -> (N,)


def auc_rows(
    scores_S: Sequence[Scores], right_N: ArrayLike, problem_N: Sequence[str], ends: tuple[str, str], ratio: str,
    draws: int = DRAWS,
) -> list[Row]:  # fmt: skip
    """A row for each method: `auc`, `low`, `high`, its differences to floor and top, (method - floor) / (top - floor).

    Args:
        scores_S: scores of the same N items by every method, one mapping for each repeat of the study.
        right_N: the truth.
        problem_N: the problem of each item; problems are resampled whole.
        ends: methods that are floor and top of the ratio, which is called `ratio`.

    Raises:
        ValueError: repeats with different methods, a missing floor or top, or items of one class only.
    """
    methods = list(scores_S[0])
    if any(list(scores) != methods for scores in scores_S) or not set(ends) <= set(methods):
        raise ValueError(
            f"methods {methods}: every repeat needs the same ones, with {ends[0]} and {ends[1]} among them"
        )
    names = sorted(set(problem_N))
    number = {name: index for index, name in enumerate(names)}
    place_N = [number[name] for name in problem_N]
    kernels = [[auc_kernel(scores[m], right_N, place_N, len(names)) for scores in scores_S] for m in methods]
    resampled = bootstrap_aucs(kernels, draws)
    if isinstance(resampled, str):
        raise ValueError(f"{len(place_N)} items of {len(names)} problems have no AUC: {resampled}")
    draws_DC, means_C = resampled
    floor, top = methods.index(ends[0]), methods.index(ends[1])
    rows = []
    for column, method in enumerate(methods):
        value = interval_from_draws(draws_DC[:, column], float(means_C[column]), len(names))
        row: Row = {"method": method, "auc": value.estimate, "low": value.low, "high": value.high}
        for other, end, bound in ((floor, "over_floor", "over"), (top, "over_top", "top")):
            if column != other:
                apart = float(means_C[column] - means_C[other])
                found = interval_from_draws(draws_DC[:, column] - draws_DC[:, other], apart, len(names))
                row |= {end: found.estimate, f"{bound}_low": found.low, f"{bound}_high": found.high}
        if column not in (floor, top):
            columns = [floor, column, top]
            gap = ratio_from_draws(draws_DC[:, columns], means_C[columns], len(names), (ends[0], method, ends[1]))
            row |= {ratio: gap.estimate, f"{ratio}_low": gap.low, f"{ratio}_high": gap.high}
            row[f"{ratio}_null_because"] = gap.reason
        rows.append({**row, "items": len(place_N), "problems": len(names), "repeats": len(scores_S)})
    return rows


def columns(ratio: str, *first: str) -> tuple[str, ...]:
    """Columns of a table of `auc_rows`."""
    values = ("method", "auc", "low", "high", "over_floor", "over_low", "over_high")
    return (*first, *values, ratio, f"{ratio}_low", f"{ratio}_high", f"{ratio}_null_because",
            "items", "problems", "repeats")  # fmt: skip


def words(row: Row, ratio: str = "") -> str:
    """An AUC with its interval, or a ratio with its own or the reason why there is none."""
    if not ratio:
        return f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if row[ratio] is None:
        return "null"
    return f"{row[ratio]:.2f} [{row[f'{ratio}_low']:.2f}, {row[f'{ratio}_high']:.2f}]"


def over(row: Row, end: str = "floor") -> str:
    """The paired difference to the floor, or to the top, with its interval."""
    bound = {"floor": "over", "top": "top"}[end]
    return f"{row[f'over_{end}']:+.3f} [{row[f'{bound}_low']:+.3f}, {row[f'{bound}_high']:+.3f}]"
