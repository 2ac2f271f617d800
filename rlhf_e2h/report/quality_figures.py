"""Figures about reward models: how well they tell right from wrong, and what policies make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import PercentFormatter

from reward_models.kinds import KINDS
from rlhf_e2h.data.levels import LEVELS
from rlhf_e2h.report.comparisons import REFERENCE
from rlhf_e2h.report.figures import Plot, Row, make_plot
from rlhf_e2h.report.svg import MARKER, Palette, new_figure, percent_axis
from rlhf_e2h.report.tables import mean_quality

NEAR = 1.5  # points between two marks whose numbers would cover each other
ENDS = ("accuracy_low", "accuracy_high", "score_low", "score_high")  # of the intervals of the changes


def quality_by_level(
    quality: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, title: str, palette: Palette
) -> Plot | None:
    """A metric of every reward model by level, the mean over seeds; models without it are left out.

    Args:
        quality: reward model -> one mapping a seed, with keys such as `step_auc_4`.
    """
    data = []
    for name, seeds in quality.items():
        if metric == "step_auc" and any(name.startswith(kind.name) and not kind.steps for kind in KINDS.values()):
            continue  # an outcome model does not judge single steps
        for level in LEVELS:
            known = [row for row in seeds if row.get(f"{metric}_{level}") is not None]
            if known:
                (mean,) = mean_quality({name: known})
                low, high = mean.get(f"{metric}_{level}_ci") or (None, None)
                value = mean[f"{metric}_{level}"]
                data.append(
                    {"series": name, "level": level, "value": value, "low": low, "high": high, "seeds": len(known)}
                )
    if len({row["level"] for row in data}) < 2:
        return None
    return make_plot(
        f"{metric}_levels",
        title,
        "On the sample bank of the test problems, with 95 % intervals; 0.5 is chance. Levels 1 to 3 were trained on, 4 "
        "and 5 were not.",
        ("series", "level", "value", "low", "high", "seeds"),
        data,
        lambda: _draw_quality(data, palette),
    )


def _draw_quality(data: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure(height=2.9)
    names = list(dict.fromkeys(row["series"] for row in data))
    for index, name in enumerate(names):
        mine, look = [row for row in data if row["series"] == name], palette[name]
        shift = 0.06 * (index - (len(names) - 1) / 2)  # side by side, or the intervals would hide one another
        axes.plot(
            [row["level"] + shift for row in mine], [row["value"] for row in mine],
            color=look.colour, marker=look.marker, label=name,
        )  # fmt: skip
        for row in mine:
            if row["low"] is not None:
                at = [row["level"] + shift] * 2
                axes.plot(at, [row["low"], row["high"]], color=look.colour, linewidth=0.9, alpha=0.7)
    axes.axhline(0.5, color=MARKER["ink"], linewidth=0.9)
    axes.set_xticks(list(LEVELS))
    axes.set_xlim(LEVELS[0] - 0.3, LEVELS[-1] + 0.3)  # the same in every figure, whichever levels are known
    axes.set_xlabel("level")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def calibration_plot(rows: Sequence[Mapping[str, Any]], palette: Palette) -> Plot | None:
    """Reliability diagram: what a reward model says against what is so. None without scores.

    Args:
        rows: reward_model, low (edge of the bin), score and observed in [0, 1] with the ends of its interval, n; see
            `sources.calibration`.
    """
    data = [dict(row) for row in rows]
    if not data:
        return None
    least, most = min(row["n"] for row in data), max(row["n"] for row in data)
    return make_plot(
        "calibration",
        "Does a score of 80 % mean right in 80 % of the cases?",
        "Scores of steps (of solutions for an ORM) on hard problems in ten bins, seeds pooled, with 95 % intervals by "
        f"problem. Larger marks hold more: from {least:,} scores to {most:,}. On the diagonal the scores are "
        "probabilities; below it the model is too sure.",
        ("reward_model", "low", "score", "observed", "observed_low", "observed_high", "n"),
        data,
        lambda: _draw_calibration(data, palette),
    )


def _draw_calibration(rows: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure(height=3.4)
    axes.plot([0, 1], [0, 1], color=MARKER["s0"], linewidth=0.9)
    names = list(dict.fromkeys(row["reward_model"] for row in rows))
    for index, name in enumerate(names):
        mine = sorted((row for row in rows if row["reward_model"] == name), key=lambda row: row["score"])
        shift = 0.008 * (index - (len(names) - 1) / 2)  # or the intervals would hide one another
        total = sum(row["n"] for row in mine)
        look, x, y = palette[name], [row["score"] for row in mine], [row["observed"] for row in mine]
        axes.plot(x, y, color=look.colour, marker=look.marker, markersize=3.5, linewidth=1.2, label=name)
        for row in mine:
            if row.get("observed_low") is not None:
                ends = [row["observed_low"], row["observed_high"]]
                axes.plot([row["score"] + shift] * 2, ends, color=look.colour, linewidth=0.9, alpha=0.7)
        axes.scatter(x, y, s=[220 * row["n"] / total for row in mine], color=look.colour, alpha=0.3, linewidth=0)
    percent_axis(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("score")
    axes.set_ylabel("observed")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def roc_plots(rows: Sequence[Mapping[str, Any]], palette: Palette) -> list[Plot]:
    """ROC curves of steps and of outcomes, one figure each.

    Args:
        rows: reward_model, part (step or outcome), false_positive and true_positive rate; see `sources.roc`.
    """
    plots = []
    for part, what in (("step", "Valid steps against invalid ones"), ("outcome", "Right solutions against wrong ones")):
        data = [dict(row) for row in rows if row["part"] == part]
        if data:
            plots.append(
                make_plot(
                    f"roc_{part}",
                    f"{what}: ROC curve",
                    "On the sample bank of all test problems, the mean over seeds at each false positive rate; the "
                    "diagonal is chance. The areas with their intervals are in the table.",
                    ("reward_model", "part", "false_positive", "true_positive", "seeds"),
                    data,
                    lambda data=data: _draw_roc(data, palette),  # type: ignore[misc]
                )
            )
    return plots


def _draw_roc(rows: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure(height=3.4)
    axes.plot([0, 1], [0, 1], color=MARKER["s0"], linewidth=0.9)
    for name in dict.fromkeys(row["reward_model"] for row in rows):
        mine, look = [row for row in rows if row["reward_model"] == name], palette[name]
        x, y = ([row[f"{rate}_positive"] for row in mine] for rate in ("false", "true"))
        axes.plot(x, y, look.line, color=look.colour, label=name)
    percent_axis(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("false positives")
    axes.set_ylabel("true positives")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def hacking_plots(points: Sequence[Mapping[str, Any]], palette: Palette) -> list[Plot]:
    """Reward model score against checked accuracy: where they part, a policy pleases the model more than the checker.

    Args:
        points: policy, level, score and accuracy in [0, 1], n; `step` of the training, or None for a finished policy;
            `judge`, the reward model. See `sources.hacking_points`.
    """
    final, over_steps = _changes(points), [dict(row) for row in points if row["step"] is not None]
    columns = ("policy", "level", "step", "judge", "score", "accuracy")
    plots = []
    if final:
        judge = final[0]["judge"] or "the reward model"
        caption = (
            f"Change of the score by {judge} and of the accuracy, against {REFERENCE} on the same level, greedily; the "
            "number is the level. Above the diagonal the score grew more than the accuracy: the policy has learnt to "
            "please the model. Lines are 95 % intervals, paired by problem."
        )
        title = f"What {judge} thinks was gained, and what was gained"
        wider = (*columns, "score_change", "accuracy_change", "n", *ENDS)
        plots.append(make_plot("reward_hacking", title, caption, wider, final, lambda: _draw_changes(final, palette)))
    if over_steps:
        caption = "Greedy solutions of easy validation problems during PPO; hard ones have no labels in training."
        title = "Reward model score and checked accuracy during training"
        plots.append(
            make_plot(
                "reward_hacking_steps",
                title,
                caption,
                columns,
                over_steps,
                lambda: _draw_gap_over_steps(over_steps, palette),
            )
        )
    return plots


def _changes(points: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Points of finished policies with their change against the reference at the same level."""
    final = [row for row in points if row["step"] is None]
    start = {row["level"]: row for row in final if row["policy"] == REFERENCE}
    return [
        {
            **row,
            "score_change": row["score"] - start[row["level"]]["score"],
            "accuracy_change": row["accuracy"] - start[row["level"]]["accuracy"],
            **{name: row.get(name) for name in ENDS},
        }
        for row in final
        if row["policy"] != REFERENCE and row["level"] in start
    ]


def _draw_changes(points: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure(height=3.8)
    for name in dict.fromkeys(row["policy"] for row in points):
        mine, look = [row for row in points if row["policy"] == name], palette[name]
        x, y = [100 * row["accuracy_change"] for row in mine], [100 * row["score_change"] for row in mine]
        axes.plot(x, y, look.marker or "o", color=look.colour, label=name, linestyle="")
        for row, right, up in zip(mine, x, y, strict=True):
            low_x, high_x, low_y, high_y = (None if row[end] is None else 100 * row[end] for end in ENDS)
            if low_x is not None:
                axes.plot([low_x, high_x], [up, up], color=look.colour, linewidth=0.7, alpha=0.6)
                axes.plot([right, right], [low_y, high_y], color=look.colour, linewidth=0.7, alpha=0.6)
        for levels, spot in _together(mine, x, y):
            axes.annotate(levels, spot, xytext=(4, 3), textcoords="offset points", color=look.colour)
    axes.margins(0.12)  # room for the numbers beside the outermost points
    axes.axline((0, 0), slope=1, color=MARKER["s0"], linewidth=0.9)
    axes.axhline(0, color=MARKER["grid"], linewidth=0.9)
    axes.axvline(0, color=MARKER["grid"], linewidth=0.9)
    axes.set_xlabel("accuracy, points")
    axes.set_ylabel("score, points")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _together(rows: Sequence[Row], x: Sequence[float], y: Sequence[float]) -> list[tuple[str, tuple[float, float]]]:
    """Levels at each spot; those nearer than their numbers are wide share one text: `1, 2`."""
    found: list[tuple[str, tuple[float, float]]] = []
    for row, right, up in zip(rows, x, y, strict=True):
        near = next((i for i, (_, spot) in enumerate(found) if math.dist(spot, (right, up)) < NEAR), None)
        if near is None:
            found.append((str(row["level"]), (right, up)))
        else:
            found[near] = (f"{found[near][0]}, {row['level']}", found[near][1])
    return found


def _draw_gap_over_steps(points: Sequence[Row], palette: Palette) -> Any:
    figure, axes = new_figure()
    for policy in dict.fromkeys(row["policy"] for row in points):
        mine = sorted((row for row in points if row["policy"] == policy), key=lambda row: row["step"])
        colour, steps = palette[policy].colour, [row["step"] for row in mine]
        axes.plot(steps, [row["score"] for row in mine], "-", color=colour, label=f"{policy}, reward model")
        axes.plot(steps, [row["accuracy"] for row in mine], "--", color=colour, label=f"{policy}, checker")
    percent_axis(axes)
    axes.set_xlabel("step")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
