"""Scoring the rows of a file, read and scored as they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reward_models.readout import is_unsplit, split_steps
from reward_models.records import BadRecord, iter_places
from reward_models.step_text import normalise_newlines


@dataclass
class Unsplit:
    """Texts that a process model took for one step though they have several lines."""

    count: int = 0
    first: str = ""  # file:line

    def add(self, where: str) -> None:
        self.first = self.first or where
        self.count += 1


def scored_rows(scorer: Any, path: str, name: str, unsplit: Unsplit | None = None) -> Iterator[dict[str, Any]]:
    """Rows with their scores, read and scored as they are taken.

    `unsplit` counts texts that look unsplit. They are scored and not refused, since samples of a policy hold some.
    """
    waiting: deque[dict[str, Any]] = deque()  # rows read ahead by the scorer and not yet answered

    def items() -> Iterator[tuple[str, list[str], str]]:
        for where, row in iter_places(path, required=("problem",)):
            steps = row.get("steps")
            if not isinstance(row["problem"], str):
                raise BadRecord(f"{where}: problem is {row['problem']!r:.60}; it must be text")
            if steps is None and isinstance(row.get("text"), str):
                text = normalise_newlines(row["text"])
                steps = split_steps(scorer.contract, text)
                if unsplit is not None and is_unsplit(scorer.contract, text):
                    unsplit.add(where)
            if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
                raise BadRecord(f"{where}: needs 'steps', a list of texts, or 'text'; the row has {sorted(row)}")
            waiting.append(row)
            ident = row.get("problem_id", where.rpartition(":")[2])
            label = f"{ident}/{row['sample_id']}" if "sample_id" in row else str(ident)
            yield normalise_newlines(row["problem"]), [normalise_newlines(step) for step in steps], label

    for scores in scorer.score_stream(items()):
        row = waiting.popleft()
        row.update(step_scores=scores.steps, score=None if scores.skipped else scores.score, reward_model=name)
        if scores.skipped:
            row["skipped"] = scores.skipped
        yield row
