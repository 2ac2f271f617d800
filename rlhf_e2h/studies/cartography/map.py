"""Draw the data map of a training run (dataset cartography). Reads training dynamics, our own or another trainer's.

Writes td_metrics.jsonl in the public format, regions.jsonl (region and level of each item), data_map.png and .pdf, and
a section for the report: the map coloured by correctness and by level, and the table of regions by level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from reward_models.records import write_jsonl
from rlhf_e2h.records import Row
from rlhf_e2h.report.section import add_section
from rlhf_e2h.report.svg import LIGHT, new_figure, styled
from rlhf_e2h.runner.config import Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.cartography import measures as cartography
from rlhf_e2h.studies.cartography.dynamics import (
    REGIONS_FILE,
    TD_METRICS,
    read_dynamics,
    read_td_metrics,
    write_td_metrics,
)
from rlhf_e2h.training.items import read_items

VERSION = 1
TRAITS = Traits(
    order=160,
    about="draw the data map of a training run: what is easy, ambiguous and hard to learn",
)
COLUMNS = ("level", "items", *cartography.REGIONS, "confidence", "variability", "always_right")


@dataclass
class Config:
    """Settings of the `map` stage."""

    dynamics: Input  # a run with `dynamics: true`, or a folder with dynamics_epoch_N.jsonl of any trainer
    other: Input | None = None  # output of another map stage on the same items: rank correlation between the two
    burn_out: int | None = None  # use the first N epochs only
    finite: bool = False  # variability corrected for a small number of epochs
    ambiguous: float = 1 / 3  # share of items, those of the highest variability, that is called ambiguous
    max_points: int = 4000  # drawn in the figure, chosen at random

    def __post_init__(self) -> None:
        if not 0 < self.ambiguous < 1:
            raise ValueError(f"ambiguous is {self.ambiguous}; it is a share of all items, between 0 and 1")
        if self.max_points < 1:
            raise ValueError(f"max_points is {self.max_points}; the figure needs at least one")


def main(config: Config, run: StageRun) -> None:
    dynamics = read_dynamics(run.path(config.dynamics), config.burn_out)
    values = cartography.metrics(dynamics.probability, dynamics.right, config.finite)
    named = cartography.regions(values["confidence"], values["variability"], config.ambiguous)
    levels_by_guid = {item.guid: item.level for item in read_items(run.path(config.dynamics))}
    levels = [levels_by_guid.get(guid) for guid in dynamics.guids]
    write_td_metrics(run.out / TD_METRICS, dynamics.guids, values)
    regions = zip(dynamics.guids, named, levels, strict=True)
    write_jsonl(run.out / REGIONS_FILE, ({"guid": g, "region": r, "level": level} for g, r, level in regions))
    epochs = dynamics.probability.shape[1]
    rows = table(values, named, levels, epochs)
    paragraph = _paragraph(dynamics.guids, values, levels, epochs, rows)
    if config.other:
        paragraph += " " + _agreement(dynamics.guids, values, *read_td_metrics(run.path(config.other)))
    shown = np.random.default_rng(run.seed).permutation(len(named))[: config.max_points]

    def draw() -> Any:
        return data_map(values, levels, epochs, shown)

    with styled("data_map"):
        figure = draw()
        figure.savefig(run.out / "data_map.png", dpi=120, facecolor="white")
        figure.savefig(run.out / "data_map.pdf", metadata={"CreationDate": None}, facecolor="white")
    add_section(
        run.out, "data_map", f"Data map: {run.name}", paragraph, COLUMNS, rows, draw,
        "Each point is a labelled item: mean probability of its label over epochs, and how much that varies.", True,
    )  # fmt: skip
    counts = Counter(named)
    run.finish(items=len(named), epochs=epochs, **{region: counts[region] for region in cartography.REGIONS[1:]})


def table(
    values: Mapping[str, np.ndarray], named: Sequence[str], levels: Sequence[int | None], epochs: int
) -> list[Row]:
    """Items of each region by level, and of all; items without a level make a row of their own, empty levels none."""
    rows = []
    for level in ["all", *sorted({level for level in levels if level is not None}), None]:
        chosen = [i for i, found in enumerate(levels) if level in ("all", found)]
        if not chosen or (level is None and len(chosen) == len(levels)):
            continue
        counts = Counter(named[i] for i in chosen)
        rows.append(
            {
                "level": "none" if level is None else level,
                "items": len(chosen),
                **{region: counts[region] for region in cartography.REGIONS},
                "confidence": round(float(values["confidence"][chosen].mean()), 4),
                "variability": round(float(values["variability"][chosen].mean()), 4),
                "always_right": round(float((values["correctness"][chosen] == epochs).mean()), 4),
            }
        )
    return rows


def _paragraph(
    guids: Sequence[str], values: Mapping[str, np.ndarray], levels: Sequence[int | None], epochs: int,
    rows: Sequence[Row],
) -> str:  # fmt: skip
    whole = rows[0]
    right = values["correctness"]
    text = (
        f"{len(guids)} items over {epochs} epochs: mean confidence {whole['confidence']:.3f}, mean variability "
        f"{whole['variability']:.3f}; {np.mean(right == epochs):.1%} right at every epoch, "
        f"{np.mean(right == 0):.1%} never."
    )
    known = [i for i, level in enumerate(levels) if level is not None]
    found = spearman([levels[i] for i in known], values["confidence"][known])
    if isinstance(found, float):
        return f"{text} Spearman correlation of confidence and level: {found:+.3f}."
    return f"{text} No correlation of confidence and level: {found}."


def spearman(left: Sequence[Any], right: Any) -> float | str:
    """Rank correlation, or why there is none."""
    if len(left) < 3:
        return f"only {len(left)} items have both"
    if len(set(left)) < 2 or len(set(np.asarray(right).tolist())) < 2:
        return "one of the two is the same for all items"
    return float(spearmanr(left, right).statistic)


def _agreement(
    guids: Sequence[str], values: Mapping[str, np.ndarray], other_guids: Sequence[str], other: Mapping[str, np.ndarray]
) -> str:
    place = {guid: index for index, guid in enumerate(other_guids)}
    both = [(i, place[guid]) for i, guid in enumerate(guids) if guid in place]
    here, there = [i for i, _ in both], [j for _, j in both]
    parts = []
    for name in ("confidence", "variability"):
        found = spearman(values[name][here].tolist(), other[name][there])
        parts.append(f"{name} {found:+.3f}" if isinstance(found, float) else f"{name} none ({found})")
    return f"Rank correlation with the other map on {len(both)} common items: {', '.join(parts)}."


def data_map(values: Mapping[str, np.ndarray], levels: Sequence[int | None], epochs: int, shown: np.ndarray) -> Any:
    """Two panels, variability against confidence: coloured by correctness, and by level where there are levels."""
    known = sorted({level for level in levels if level is not None})
    figure, first = new_figure(9.0 if known else 4.8, 3.8)
    if known:
        first.remove()
        first, second = figure.subplots(1, 2, sharey=True)
        groups: list[Any] = [levels[i] for i in shown]
        _scatter(second, values, shown, groups, known, "level")
    share = (values["correctness"] / epochs)[shown]
    bins = [f"{low:.1f}-{low + 0.2:.1f}" for low in (0, 0.2, 0.4, 0.6, 0.8)]
    group = [bins[min(4, int(value * 5))] for value in share]
    _scatter(first, values, shown, group, [b for b in bins if b in group], "epochs right")
    first.set_ylabel("confidence")
    return figure


def _scatter(
    axes: Any, values: Mapping[str, np.ndarray], shown: np.ndarray, group: list[Any], names: Sequence[Any],
    title: str,
) -> None:  # fmt: skip
    colours = [LIGHT[name] for name in ("s2", "s5", "s0", "s1", "s3")]
    for number, name in enumerate(names):
        chosen = shown[[one == name for one in group]]
        axes.scatter(
            values["variability"][chosen], values["confidence"][chosen], s=7, alpha=0.55, linewidths=0,
            color=colours[number % len(colours)], label=str(name), rasterized=True,
        )  # fmt: skip
    axes.set_xlabel("variability")
    axes.grid(True)
    axes.tick_params(length=0)
    axes.legend(title=title, markerscale=2, loc="center right", fontsize=8, title_fontsize=8)
