"""The compute-matched comparison drawn, and its table as plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_e2h.report.comparisons import REFERENCE, RERANKING
from rlhf_e2h.report.compute import COLUMNS, Row
from rlhf_e2h.report.figures import Plot, make_plot
from rlhf_e2h.report.svg import Palette, new_figure, percent_axis

DRAWN = "prm"  # the reward model whose curves are drawn, if there is one: that of the paper's policies


def compute_plot(compute: Mapping[str, Any], palette: Palette, level: str = "hard") -> Plot | None:
    """Accuracy over operations: lines for decodings of the reference's samples, a point for each policy."""
    rows = [row for row in compute.get("rows", ()) if row["level"] == level]
    curves, points = _curves(rows), [row for row in rows if row["decoding"] == "greedy" and row["total_flops"] > 0]
    if not curves or not points:
        return None
    problems = rows[0]["problems"]
    models = sorted({row["reward_model"] for row in rows if row["reward_model"]})
    drawn = sorted({row["reward_model"] for curve in curves.values() for row in curve if row["reward_model"]})
    left_out = [name for name in models if name not in drawn]
    return make_plot(
        "compute",
        "Accuracy over compute",
        f"{level.capitalize()} problems, 95 % intervals. Operations beyond {REFERENCE}: once (sampling, reward models, "
        f"training) plus inference on the {problems} test problems. Hollow: trained on hard labels."
        + (f" Not drawn, but in the numbers: {', '.join(left_out)}." if left_out else ""),
        COLUMNS,
        list(compute["rows"]),
        lambda: _draw(curves, points, palette),
    )


def _curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Decodings of the reference's samples: majority, and both rerankings by one reward model."""
    mine = [row for row in rows if row["policy"] == REFERENCE and row["decoding"] in ("majority", *RERANKING)]
    easy = [row["reward_model"] for row in mine if row["reward_model"] and row["labels"] == "easy"]
    chosen = next((name for name in easy if name.split("_")[0] == DRAWN), easy[0] if easy else None)
    curves: dict[str, list[Row]] = {}
    for row in mine:
        if row["reward_model"] in (None, chosen):
            by = f", {row['reward_model']}" if row["reward_model"] else ""
            curves.setdefault(row["decoding"].replace("_", " ") + by, []).append(row)
    return {name: sorted(points, key=lambda row: row["total_flops"]) for name, points in curves.items()}


def _draw(curves: Mapping[str, Sequence[Row]], points: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure(height=3.9)
    for name, curve in curves.items():
        look = palette[curve[0]["reward_model"] or "majority"]
        line = "--" if curve[0]["decoding"] == "best_of_n" else look.line
        _point(axes, curve, look.colour, fmt=line, marker=look.marker or ".", label=name)
    for row in points:
        hollow = "none" if row["labels"] == "full" else "full"
        look = palette[row["policy"]]
        _point(axes, [row], look.colour, fmt="", marker=look.marker or "D", label=row["policy"], fillstyle=hollow)
    axes.set_xscale("log")
    axes.set_xlabel("floating-point operations")
    percent_axis(axes)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _point(axes: Any, rows: Sequence[Row], colour: str, **look: Any) -> None:
    x, y = [row["total_flops"] for row in rows], [row["accuracy"] for row in rows]
    ends = [[row["accuracy"] - row["ci_low"] for row in rows], [row["ci_high"] - row["accuracy"] for row in rows]]
    axes.errorbar(x, y, ends, color=colour, ecolor=colour, elinewidth=0.8, markersize=6, **look)


def method_table(compute: Mapping[str, Any], level: str = "hard") -> list[Row]:
    """A row a policy, and the most samples of each decoding of the reference, by what they cost on the test set."""
    rows = [row for row in compute.get("rows", ()) if row["level"] == level]
    most = max((row["samples"] for row in rows), default=1)
    shown = [
        row
        for row in rows
        if row["decoding"] == "greedy"
        or (row["policy"] == REFERENCE and row["samples"] == most and row["decoding"] in ("majority", *RERANKING))
    ]
    return sorted(shown, key=lambda row: row["total_flops"])
