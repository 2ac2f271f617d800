"""How well a reward model judges solutions whose labels are known: by easy and hard, and by level."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_models.evaluation import compare
from reward_models.intervals import intervals
from reward_models.records import Stepwise
from reward_models.score import StepScores
from rlhf_e2h.data.levels import LEVELS, band


def easy_levels_of(prepare_dir: Path) -> list[int]:
    """The levels that a `prepare` stage calls easy."""
    summary = json.loads((prepare_dir / "summary.json").read_text(encoding="utf-8"))
    return [int(level) for level in summary["easy_levels"]]


def quality_by_group(
    records: Sequence[Stepwise],
    scored: Sequence[StepScores],
    kind: str,
    problem_ids: Sequence[str],
    levels: Sequence[int | None],
    easy_levels: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """The metrics of `reward_models.evaluation.compare` with `intervals` by problem, of the groups that have records.

    Returns:
        A mapping from "easy", "hard", "all" and "1" to "5".
    """
    bands = [band(level, easy_levels) for level in levels]
    groups = {name: [i for i, found in enumerate(bands) if found == name] for name in ("easy", "hard")}
    groups["all"] = [i for i, found in enumerate(bands) if found != "unknown"]
    groups |= {str(level): [i for i, found in enumerate(levels) if found == level] for level in LEVELS}
    quality = {}
    for name, chosen in groups.items():
        if chosen:
            part = [records[i] for i in chosen], [scored[i] for i in chosen], kind
            quality[name] = compare(*part) | {"intervals": intervals(*part, [problem_ids[i] for i in chosen])}
    return quality
