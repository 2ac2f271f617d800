"""Scored solutions to read: each step with the score that a reward model gave it, coloured on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reward_models.bank import of_model
from reward_models.contract import PLAIN
from reward_models.readout import split_steps
from reward_models.records import BadRecord
from reward_models.step_text import normalise_newlines

COLOURS = (160, 208, 178, 106, 34)  # of a terminal's 256, red to green: scores 0-.2, .2-.4, ...


def shown(row: Mapping[str, Any], where: str, scores: str = "", colour: bool = False) -> Iterator[str]:
    """The lines of one row of scored samples: what it is, its problem where it has one, and its steps.

    Args:
        scores: the reward model, where `step_scores` maps names to lists.
        colour: with the terminal's codes around each score.

    Raises:
        BadRecord: no `steps` or `text`, or `step_scores` that are not one number a step (null, or a row that was
            skipped: not scored).
    """
    row = of_model(row, scores, where)
    steps, found = row.get("steps"), None if row.get("skipped") else row.get("step_scores")
    if steps is None and isinstance(row.get("text"), str):
        steps = split_steps(PLAIN, normalise_newlines(row["text"]))
    if not isinstance(steps, list) or not steps:
        raise BadRecord(f"{where}: needs 'steps', a list of texts, or 'text'; the row has {sorted(row)}")
    if found is not None and (not isinstance(found, list) or len(found) != len(steps)):
        count = len(found) if isinstance(found, list) else found
        raise BadRecord(f"{where}: {len(steps)} steps and step_scores {count!r:.60}; give one score a step, or null")
    if any(isinstance(score, bool) or not isinstance(score, int | float) or score != score for score in found or ()):
        raise BadRecord(f"{where}: step_scores are {found!r:.60}; give numbers")
    name = "/".join(str(row[key]) for key in ("problem_id", "sample_id") if key in row) or where
    verdict = "" if row.get("correct") is None else "right" if row["correct"] else "wrong"
    yield ", ".join(part for part in (name, verdict, f"level {row['level']}" if row.get("level") else "") if part)
    if row.get("problem"):
        yield from (f"  {_plain(line)}" for line in str(row["problem"]).splitlines())
    for step, score in zip(steps, found or [None] * len(steps), strict=True):
        lines = str(step).splitlines() or [""]
        yield f"  {_score(score, colour)}  {_plain(lines[0])}"
        yield from (f"        {_plain(line)}" for line in lines[1:] if line.strip())


def _plain(text: str) -> str:
    """What a model wrote, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _score(score: float | None, colour: bool) -> str:
    if score is None:
        return "    "
    text = f"{score:.2f}"
    return f"\033[38;5;{COLOURS[min(4, max(0, int(5 * score)))]}m{text}\033[0m" if colour else text
