"""Intervals of the reward-hacking panel: how much score and accuracy of a policy changed, paired by problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.records import iter_jsonl
from rlhf_e2h.records import Row
from rlhf_e2h.report.comparisons import REFERENCE
from rlhf_e2h.stats.intervals import DRAWS, paired_difference

Judged = dict[tuple[str, str], dict[int, dict[str, tuple[float, float]]]]


def with_change_intervals(points: Sequence[Row], files: Iterable[tuple[int, Path]], draws: int = DRAWS) -> list[Row]:
    """The points of finished policies with `score_low`, `score_high`, `accuracy_low`, `accuracy_high`: the ends of the
    95 % intervals of their changes against the reference on the same level, over problems and seeds.

    Args:
        points: see `sources.hacking_points`.
        files: (seed, outcomes.jsonl); greedy rows there have the judge's `score` where a policy was judged. Without
            them a point stays as it is.
    """
    judged = _read(files)
    return [point | _intervals(judged, point, draws) for point in points]


def _read(files: Iterable[tuple[int, Path]]) -> Judged:
    found: Judged = {}
    for seed, path in files:
        for row in iter_jsonl(path):
            if row.get("score") is not None and row["decoding"] == "greedy":
                by_seed = found.setdefault((row["policy"], str(row["level"])), {})
                by_seed.setdefault(seed, {})[row["problem_id"]] = (row["score"], row["correct"])
    return found


def _intervals(judged: Judged, point: Mapping[str, Any], draws: int) -> Row:
    mine, start = (judged.get((name, point["level"]), {}) for name in (point["policy"], REFERENCE))
    seeds = sorted(mine.keys() & start.keys())
    problems = sorted(set.intersection(*(set(side[seed]) for side in (mine, start) for seed in seeds))) if seeds else []
    if not problems or point["policy"] == REFERENCE:
        return {}
    sides = [np.array([[side[seed][one] for seed in seeds] for one in problems]) for side in (mine, start)]
    ends: Row = {}
    for index, name in enumerate(("score", "accuracy")):
        treatment_PS, baseline_PS = (side_PS2[:, :, index] for side_PS2 in sides)
        interval = paired_difference(treatment_PS, baseline_PS, draws)
        ends |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return ends
