"""Figures of the gap and weak-to-strong studies, in the colours of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.records import Row
from rlhf_e2h.report.svg import MARKER, MARKERS, SERIES, new_figure

Curves = Mapping[str, Sequence[tuple[float, float, float, float]]]


def heat_map(values: NDArray[np.floating], rows: Sequence[str], columns: Sequence[str], x: str, y: str) -> Any:
    """Cells with their numbers, darker for more; an empty cell has no value."""
    figure, axes = new_figure(max(4.6, 1.6 + 0.5 * len(columns)), max(3.6, 1.5 + 0.34 * len(rows)))
    axes.grid(False)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            if not np.isfinite(value):
                continue
            shade = (value - low) / (high - low) if high > low else 0.0
            axes.add_patch(_square(j, i, 0.1 + 0.6 * shade))
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=MARKER["ink"])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    long = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 8 else {}
    axes.set_xticks(range(len(columns)), columns, **long)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure


def _square(x: int, y: int, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, color=MARKER["s1"], alpha=alpha, linewidth=0)


def curves(found: Curves, x: str, y: str, log: bool = False) -> Any:
    """One line an arm, its interval shaded."""
    figure, axes = new_figure()
    for index, (arm, points) in enumerate(found.items()):
        colour = MARKER[SERIES[index % len(SERIES)]]
        places, values, low, high = zip(*points, strict=True)
        axes.plot(places, values, "o-", color=colour, label=arm)
        axes.fill_between(places, low, high, color=colour, alpha=0.1, linewidth=0)
    if log:
        axes.set_xscale("log", base=2)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def shares(
    found: Curves, x: str, y: str, level: tuple[str, tuple[float, float, float]] | None = None, columns: int = 3
) -> Any:
    """One line an arm over shares of 1, evenly spaced and named in percent, with whiskers that stand side by side.

    `level`: the name of what does not depend on the share, and its (value, low, high): a dashed line, shaded.
    """
    figure, axes = new_figure(6.2, 3.8)
    ticks = sorted({point[0] for points in found.values() for point in points})
    for index, (arm, points) in enumerate(found.items()):
        aside = (index - (len(found) - 1) / 2) * 0.13
        places, values, low, high = np.array(points).T
        at = np.searchsorted(ticks, places) + aside
        look = {"color": MARKER[SERIES[index % len(SERIES)]], "marker": MARKERS[index % len(MARKERS)]}
        axes.errorbar(at, values, [values - low, high - values], label=arm, elinewidth=1, **look)
    if level:
        name, (value, below, above) = level
        axes.axhline(value, color=MARKER["s0"], linestyle="--", linewidth=1.2, label=name)
        axes.axhspan(below, above, color=MARKER["s0"], alpha=0.1, linewidth=0)
    axes.set_xticks(range(len(ticks)), [f"{tick:.0%}" for tick in ticks])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


def dots(
    rows: Sequence[Row], label: str, groups: Sequence[str], group_of: str, x: str, lines: Mapping[str, float]
) -> Any:
    """A line of points with intervals for each row's `label`, one colour a group; dashed lines mark floor and ceiling.

    Rows whose value is null are left out here; the table has their reason.
    """
    names = list(dict.fromkeys(row[label] for row in rows))
    figure, axes = new_figure(5.4, 0.9 + 0.32 * len(names))
    axes.grid(axis="x")
    for index, group in enumerate(groups):
        points = [row for row in rows if row[group_of] == group and row.get("value") is not None]
        y = [names.index(row[label]) + (index - (len(groups) - 1) / 2) * 0.22 for row in points]
        colour = MARKER[SERIES[index % len(SERIES)]]
        axes.plot([row["value"] for row in points], y, "o", color=colour, label=group)
        axes.hlines(y, [row["low"] for row in points], [row["high"] for row in points], color=colour, linewidth=1.4)
    top = max(lines.values(), default=0.0)
    for name, value in lines.items():
        axes.axvline(value, color=MARKER["muted"], linestyle="--", linewidth=1)
        side = "left" if value == top else "right"  # names of lines close to each other stay apart
        axes.text(value, -0.72, f" {name} ", color=MARKER["muted"], ha=side, va="bottom")
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(x)
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=3)
    return figure
