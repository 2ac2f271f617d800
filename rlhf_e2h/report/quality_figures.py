"""Figures about reward models: how well they tell right from wrong, and what policies make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import PercentFormatter

from rlhf_e2h.data.levels import LEVELS
from rlhf_e2h.report.figures import MARKERS, Plot, Row, make_plot, name_rows
from rlhf_e2h.report.svg import MARKER, SERIES, new_figure, percent_axis


def quality_by_level(quality: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, title: str) -> Plot | None:
    """A metric of every reward model by level, the mean over seeds; models without it are left out.

    Args:
        quality: reward model -> one mapping a seed, with keys such as `step_auc_4`.
    """
    data = []
    for name, seeds in quality.items():
        if metric == "step_auc" and name.startswith("orm"):
            continue  # an outcome model does not judge single steps
        for level in LEVELS:
            known = [row[f"{metric}_{level}"] for row in seeds if row.get(f"{metric}_{level}") is not None]
            if known:
                data.append({"series": name, "level": level, "value": sum(known) / len(known), "seeds": len(known)})
    if len({row["level"] for row in data}) < 2:
        return None
    return make_plot(
        f"{metric}_levels",
        title,
        "On the sample bank of the test problems; 0.5 is chance. Levels 1 to 3 were trained on, 4 and 5 were not.",
        ("series", "level", "value", "seeds"),
        data,
        lambda: _draw_quality(data),
    )


def _draw_quality(data: Sequence[Row]) -> Any:
    figure, axes = new_figure(height=2.9)
    for index, name in enumerate(dict.fromkeys(row["series"] for row in data)):
        mine = [row for row in data if row["series"] == name]
        style = {"color": MARKER[SERIES[index % len(SERIES)]], "marker": MARKERS[index % len(MARKERS)]}
        axes.plot([row["level"] for row in mine], [row["value"] for row in mine], label=name, **style)
    axes.axhline(0.5, color=MARKER["ink"], linewidth=0.9)
    axes.set_xticks(list(LEVELS))
    axes.set_xlabel("level")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def calibration_plot(rows: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Reliability diagram: what a reward model says against what is so. None without scores.

    Args:
        rows: reward_model, low (edge of the bin), score and observed in [0, 1], n; see `sources.calibration`.
    """
    data = [dict(row) for row in rows]
    if not data:
        return None
    return make_plot(
        "calibration",
        "Does a score of 80 % mean right in 80 % of the cases?",
        "Scores of steps (of solutions for an ORM) on hard problems in ten bins, seeds pooled; larger marks hold more. "
        "On the diagonal the scores are probabilities; below it the model is too sure.",
        ("reward_model", "low", "score", "observed", "n"),
        data,
        lambda: _draw_calibration(data),
    )


def _draw_calibration(rows: Sequence[Row]) -> Any:
    figure, axes = new_figure(height=3.4)
    axes.plot([0, 1], [0, 1], color=MARKER["s0"], linewidth=0.9)
    for index, name in enumerate(dict.fromkeys(row["reward_model"] for row in rows)):
        mine = sorted((row for row in rows if row["reward_model"] == name), key=lambda row: row["score"])
        total = sum(row["n"] for row in mine)
        colour, x, y = MARKER[SERIES[index % len(SERIES)]], [r["score"] for r in mine], [r["observed"] for r in mine]
        axes.plot(x, y, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=3.5, linewidth=1.2, label=name)
        axes.scatter(x, y, s=[220 * row["n"] / total for row in mine], color=colour, alpha=0.3, linewidth=0)
    percent_axis(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("score")
    axes.set_ylabel("observed")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def hacking_plots(points: Sequence[Mapping[str, Any]], level: str = "hard") -> list[Plot]:
    """Reward model score against checked accuracy: where they part, a policy pleases the model more than the checker.

    Args:
        points: policy, level (easy or hard), score and accuracy in [0, 1], means over seeds; `step` of the
            training, or None for the finished policy.
    """
    final = [dict(row) for row in points if row["level"] == level and row["step"] is None]
    over_steps = [dict(row) for row in points if row["step"] is not None]
    columns = ("policy", "level", "step", "score", "accuracy")
    plots = []
    if final:
        caption = (
            f"Greedy solutions of {level} problems. Against sft_easy: where the score grew more than the accuracy, "
            "a policy has learnt to please the model."
        )
        title = "Reward model score and checked accuracy"
        plots.append(make_plot("reward_hacking", title, caption, columns, final, lambda: _draw_gap(final)))
    if over_steps:
        caption = "Greedy solutions of easy validation problems during PPO; hard ones have no labels in training."
        title = "Reward model score and checked accuracy during training"
        plots.append(
            make_plot(
                "reward_hacking_steps", title, caption, columns, over_steps, lambda: _draw_gap_over_steps(over_steps)
            )
        )
    return plots


def _draw_gap(points: Sequence[Row]) -> Any:
    figure, axes = new_figure(height=1.1 + 0.3 * len(points))
    for y, row in enumerate(points[::-1]):
        score, accuracy = 100 * row["score"], 100 * row["accuracy"]
        axes.plot([accuracy, score], [y, y], color=MARKER["s0"], linewidth=1.4)
        axes.plot(accuracy, y, "s", color=MARKER["s1"], markersize=7, label="checker" if not y else None)
        axes.plot(score, y, "o", color=MARKER["s2"], markersize=7, label="reward model" if not y else None)
    name_rows(axes, [row["policy"] for row in points[::-1]])
    axes.xaxis.set_major_formatter(PercentFormatter(100.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_gap_over_steps(points: Sequence[Row]) -> Any:
    figure, axes = new_figure()
    for index, policy in enumerate(dict.fromkeys(row["policy"] for row in points)):
        mine = sorted((row for row in points if row["policy"] == policy), key=lambda row: row["step"])
        colour, steps = MARKER[SERIES[index % len(SERIES)]], [row["step"] for row in mine]
        axes.plot(steps, [row["score"] for row in mine], "-", color=colour, label=f"{policy}, reward model")
        axes.plot(steps, [row["accuracy"] for row in mine], "--", color=colour, label=f"{policy}, checker")
    percent_axis(axes)
    axes.set_xlabel("step")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
