"""How good is a sampled solution, as far as a stage may know: reward models always, the checker on easy problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_e2h.checker import answer_classes
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.samples.bank import Row, aggregate_steps, grade


@dataclass(frozen=True)
class Judges:
    """Who says how good a sample is: the checker where there is a label, and a reward model if one is given."""

    labels: Mapping[str, Label]
    reward_model: Path | None
    aggregation: str


def judged(rows: Sequence[Row], judges: Judges) -> list[Row]:
    """Rows with `rm` (aggregated reward-model score in [0, 1], None without a model) and `correct` (True, False, or
    None without label)."""
    verdicts = {(row["problem_id"], row["sample_id"]): row["correct"] for row in grade(rows, judges.labels)}
    scores = [None] * len(rows) if judges.reward_model is None else aggregate_steps(rows, judges.aggregation)
    return [
        {**row, "rm": value, "correct": verdicts.get((row["problem_id"], row["sample_id"]))}
        for row, value in zip(rows, scores, strict=True)
    ]


def by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["problem_id"]].append(row)
    return dict(groups)


def vote(rows: Sequence[Row]) -> set[int]:
    """Indices of the samples that give the answer with the largest sum of `rm` scores (weighted vote)."""
    classes = answer_classes([row["answer"] for row in rows])
    totals: dict[int, float] = defaultdict(float)
    for row, group in zip(rows, classes, strict=True):
        if group >= 0:
            totals[group] += row["rm"]
    if not totals:
        return set()
    winner = max(totals, key=lambda group: totals[group])
    return {index for index, group in enumerate(classes) if group == winner}


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    known = [row["correct"] for row in rows if row["correct"] is not None]
    scores = [row["rm"] for row in rows if row["rm"] is not None]
    return {
        "judge/rm_mean": sum(scores) / len(scores) if scores else None,
        "judge/easy_accuracy": sum(known) / len(known) if known else None,
        "judge/unfinished": sum(not row["finished"] for row in rows) / max(len(rows), 1),
    }
