"""The figures of the report. Each keeps the numbers that it shows, for the CSV beside it and the table below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from rlhf_e2h.data.levels import LEVELS
from rlhf_e2h.records import Row
from rlhf_e2h.report.comparisons import CEILING, REFERENCE
from rlhf_e2h.report.results import ALL_SEEDS, main_seed, write_csv
from rlhf_e2h.report.svg import MARKER, Palette, new_figure, percent_axis, samples_axis, styled, to_svg
from rlhf_e2h.report.tables import CEILINGS, index_rows


@dataclass(frozen=True)
class Plot:
    """A drawn figure and its numbers."""

    name: str  # of the files, and part of ids in the page
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: list[Row]
    page_svg: str
    file_svg: str

    def write(self, folder: Path) -> None:
        """NAME.svg and NAME.csv."""
        write_csv(folder / f"{self.name}.csv", self.columns, self.rows)
        (folder / f"{self.name}.svg").write_text(self.file_svg, encoding="utf-8")


def make_plot(
    name: str, title: str, caption: str, columns: Sequence[str], rows: list[Row], draw: Callable[[], Any]
) -> Plot:
    """A figure drawn by `draw` under our style, with the numbers that it shows."""
    with styled(name):
        figure = draw()
        page_svg, file_svg = to_svg(figure, name, f"{title}. {caption} The table below it has the numbers.")
    return Plot(name, title, caption, tuple(columns), rows, page_svg, file_svg)


def curve_over_n(results: Mapping[str, Any], decoding: str, palette: Palette, level: str = "hard") -> Plot | None:
    """Accuracy over the number of samples: majority, one decoding by each reward model, pass@n. None without a bank."""
    seed = main_seed(results)
    rows = [row for row in results["rows"] if row["seed"] == seed and row["level"] == level]
    policies = list(dict.fromkeys(row["policy"] for row in rows if row["decoding"] == "majority"))
    if not policies:
        return None
    policy = REFERENCE if REFERENCE in policies else policies[0]
    rows = [row for row in rows if row["policy"] == policy]
    series = {"majority": [row for row in rows if row["decoding"] == "majority"]}
    for row in rows:
        if row["decoding"] == decoding:
            series.setdefault(row["reward_model"], []).append(row)
    if len(series) == 1:
        return None
    series["pass@n"] = [row for row in rows if row["decoding"] in CEILINGS]
    series = {name: sorted(points, key=lambda row: row["samples"]) for name, points in series.items() if points}
    data = [{"series": name, **point} for name, points in series.items() for point in points]
    words = decoding.replace("_", " ").replace("best of n", "best-of-n")
    return make_plot(
        f"curve_{decoding}",
        f"{words.capitalize()} over the number of samples",
        f"{policy} on {level} problems, with 95 % intervals. pass@n knows the answers and is the ceiling.",
        ("series", "policy", "samples", "level", "n", "accuracy", "ci_low", "ci_high", "seed"),
        data,
        lambda: _draw_curve(series, palette),
    )


def _draw_curve(series: Mapping[str, list[Row]], palette: Palette) -> Any:
    figure, axes = new_figure()
    for index, (name, points) in enumerate(series.items()):
        look = palette[name]
        shift = 1 + 0.025 * (index - (len(series) - 1) / 2)  # side by side, or the intervals would hide one another
        x = [point["samples"] * shift for point in points]
        y = [point["accuracy"] for point in points]
        ends = [[p["accuracy"] - p["ci_low"] for p in points], [p["ci_high"] - p["accuracy"] for p in points]]
        axes.plot(x, y, look.line, color=look.colour, marker=look.marker, label=name)
        axes.errorbar(x, y, ends, fmt="none", ecolor=look.colour, elinewidth=0.8, alpha=0.7)
    samples_axis(axes, sorted({point["samples"] for points in series.values() for point in points}))
    percent_axis(axes)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def level_bars(results: Mapping[str, Any], palette: Palette) -> Plot | None:
    """Greedy accuracy by level for at most five policies: base, reference, best optimised, other optimised, ceiling."""
    rows = index_rows(results)
    greedy = {key[0]: key[:-1] for key in rows if key[1] == "greedy"}
    ranked = [row for row in results["comparisons"] if row["kind"] == "policy" and row["estimate"] is not None]
    ranked = [row for row in ranked if row["treatment"]["labels"] == "easy"]
    ranked.sort(key=lambda row: -row["estimate"])
    wanted = ["base", REFERENCE, *(row["treatment"]["policy"] for row in ranked[:2]), CEILING]
    policies = [policy for policy in dict.fromkeys(wanted) if policy in greedy] or list(greedy)[:5]
    data = [
        {"series": policy, **rows[*greedy[policy], str(level)]}
        for policy in policies
        for level in LEVELS
        if (*greedy[policy], str(level)) in rows
    ]
    if not data:
        return None
    left_out = [policy for policy in greedy if policy not in policies]
    return make_plot(
        "levels",
        "Greedy accuracy by level",
        "Levels 1 to 3 are easy, 4 and 5 are hard. Lines are 95 % intervals."
        + (f" Not drawn, but in the table by level below: {', '.join(left_out)}." if left_out else ""),
        ("series", "level", "n", "accuracy", "ci_low", "ci_high", "labels", "seed"),
        data,
        lambda: _draw_levels(policies, data, palette),
    )


def _draw_levels(policies: Sequence[str], data: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure()
    width = 0.84 / len(policies)
    for index, policy in enumerate(policies):
        points = [row for row in data if row["series"] == policy]
        x = [int(row["level"]) + (index - (len(policies) - 1) / 2) * width for row in points]
        y = [row["accuracy"] for row in points]
        whiskers = [
            [row["accuracy"] - row["ci_low"] for row in points],
            [row["ci_high"] - row["accuracy"] for row in points],
        ]
        look = palette[policy]
        hatched = {"fill": False, "edgecolor": look.colour, "hatch": "////"}  # its colour has another name's bars, too
        axes.bar(x, y, width * 0.88, label=policy, **({"color": look.colour} if look.line == "-" else hatched))
        axes.errorbar(x, y, whiskers, fmt="none", ecolor=MARKER["ink"], elinewidth=0.9)
    axes.set_xticks(list(LEVELS))
    axes.set_xlabel("level")
    axes.set_ylim(0, 1.02)
    percent_axis(axes)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def seed_dots(results: Mapping[str, Any], level: str = "hard") -> Plot | None:
    """Greedy accuracy of every policy with every seed, and over all seeds. None for a run of one seed."""
    if len(results["seeds"]) < 2:
        return None
    rows = [row for row in results["rows"] if row["decoding"] == "greedy" and row["level"] == level]
    policies = [row["policy"] for row in rows if row["seed"] == ALL_SEEDS]
    if not policies:
        return None
    data = [row for policy in policies for row in rows if row["policy"] == policy]
    return make_plot(
        "seeds",
        "The same with each seed",
        f"Greedy accuracy on {level} problems: a circle a seed; mean and 95 % interval over problems and seeds.",
        ("policy", "seed", "level", "n", "accuracy", "ci_low", "ci_high", "labels"),
        data,
        lambda: _draw_seeds(policies, data),
    )


def _draw_seeds(policies: Sequence[str], data: Sequence[Row]) -> Any:
    figure, axes = new_figure(height=0.9 + 0.27 * len(policies))
    for y, policy in enumerate(policies[::-1]):
        mine = [row for row in data if row["policy"] == policy]
        (mean,) = (row for row in mine if row["seed"] == ALL_SEEDS)
        colour = MARKER["s0"] if mean["labels"] == "full" else MARKER["s1"]
        axes.plot([100 * mean["ci_low"], 100 * mean["ci_high"]], [y, y], color=colour, linewidth=2.2)
        axes.plot(100 * mean["accuracy"], y, "|", color=colour, markersize=12, markeredgewidth=2.2)
        seeds = [100 * row["accuracy"] for row in mine if row["seed"] != ALL_SEEDS]
        axes.plot(seeds, [y] * len(seeds), "o", color=MARKER["s2"], fillstyle="none", markersize=6)
    name_rows(axes, policies[::-1])
    axes.xaxis.set_major_formatter(PercentFormatter(100.0, decimals=0))
    return figure


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """A plot of named rows: names at the left, grid along x only."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=MARKER["ink"])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def difference_forest(results: Mapping[str, Any], kind: str) -> Plot | None:
    """Paired differences of one kind with intervals, the best on top; rerankings with the most samples only."""
    found = [row for row in results["comparisons"] if row["kind"] == kind and row["estimate"] is not None]
    most = max((row["treatment"]["samples"] for row in found), default=0)
    found = [row for row in found if row["treatment"]["samples"] == most]
    if kind == "decoding":
        policies = {row["treatment"]["policy"] for row in found}
        found = [
            row
            for row in found
            if row["treatment"]["policy"] == (REFERENCE if REFERENCE in policies else min(policies))
        ]
    if not found:
        return None
    found.sort(key=lambda row: row["estimate"])
    data = [{"comparison": _short(row, kind), "labels": row["treatment"]["labels"], **row} for row in found]
    against = REFERENCE if kind == "policy" else f"majority of the same {most} samples"
    title = "Policies against SFT on easy problems" if kind == "policy" else "Rerankings against majority"
    return make_plot(
        f"differences_{kind}",
        title,
        f"Accuracy on hard problems minus that of {against}, in points, paired, with 95 % intervals. "
        "Hollow: trained on hard labels.",
        ("comparison", "labels", "level", "n", "estimate", "low", "high", "name"),
        data[::-1],
        lambda: _draw_forest(data),
    )


def _short(row: Row, kind: str) -> str:
    side = row["treatment"]
    return side["policy"] if kind == "policy" else f"{side['decoding'].replace('_', ' ')}, {side['reward_model']}"


def _draw_forest(data: Sequence[Row]) -> Any:
    figure, axes = new_figure(height=0.9 + 0.27 * len(data))
    for y, row in enumerate(data):
        full = row["labels"] == "full"
        clear = row["low"] > 0 or row["high"] < 0
        colour = MARKER["s0"] if not clear else MARKER["s1"] if row["low"] > 0 else MARKER["s2"]
        axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(100 * row["estimate"], y, "o", color=colour, markersize=6.5, fillstyle="none" if full else "full")
    axes.axvline(0, color=MARKER["ink"], linewidth=0.9)
    name_rows(axes, [row["comparison"] for row in data])
    axes.set_xlabel("points")
    return figure
