"""Curves over training steps, the first thing that one looks for: what PPO was rewarded for, and every stage's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_e2h.report.figures import Plot, Row, make_plot
from rlhf_e2h.report.svg import Palette, new_grid

RL_PANELS = {  # metric -> heading of its panel
    "objective/scores": "reward",
    "objective/kl": "KL to the reference",
    "critic/vf_explained_var": "explained variance",
    "policy/entropy_avg": "entropy",
    "rollout/tokens": "tokens a solution",
    "reward/outcome": "right, easy rollouts",
    "eval/accuracy_easy": "right, easy validation",
}
LOSS = "train/loss"
LOSS_PANELS = {"sft": "fine-tuning", "reward": "reward models", "dpo": "DPO", "rest": "ReST-EM"}  # kind -> heading


def training_plots(points: Sequence[Mapping[str, Any]], palette: Palette) -> list[Plot]:
    """Small multiples of policy optimisation (a panel a metric) and of the losses (a panel a kind of stage).

    Args:
        points: stage, kind, seed, step, metric and value; see `sources.training_curves`.
    """
    rl = [dict(row) for row in points if row["metric"] in RL_PANELS]
    losses = [dict(row) for row in points if row["metric"] == LOSS and row["kind"] in LOSS_PANELS]
    columns = ("stage", "kind", "seed", "step", "metric", "value")
    plots = []
    if rl:
        caption = "Over PPO's steps, a thin line a seed. Only easy problems have labels here, so only they are checked."
        plots.append(
            make_plot("training_rl", "Policy optimisation", caption, columns, rl, lambda: _draw(rl, "metric", palette))
        )
    if losses:
        caption = "Training loss over optimiser steps, a thin line a seed; rounds follow one another."
        plots.append(
            make_plot(
                "training_loss", "Losses", caption, columns, losses, lambda: _draw(losses, "kind", palette, LOSS_PANELS)
            )
        )
    return plots


def _draw(points: Sequence[Row], panel_key: str, palette: Palette, headings: Mapping[str, str] = RL_PANELS) -> Any:
    panels = [panel for panel in headings if any(row[panel_key] == panel for row in points)]
    height = (len(panels) + 1) // 2
    figure, grid = new_grid(height, 2, height=0.7 + 1.55 * height)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for panel, axes in zip(panels, grid.flat, strict=False):
        axes.set_title(headings[panel])
        own = [row for row in points if row[panel_key] == panel]
        for stage, seed in dict.fromkeys((row["stage"], row["seed"]) for row in own):
            line = [row for row in own if row["stage"] == stage and row["seed"] == seed]
            x, y = [row["step"] for row in line], [row["value"] for row in line]
            look = palette[stage]
            marker = "." if len(x) == 1 else ""
            axes.plot(x, y, look.line, color=look.colour, marker=marker, linewidth=1.2, label=stage)
    names = {text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=3)
    return figure
