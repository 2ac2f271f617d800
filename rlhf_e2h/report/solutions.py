"""A few solutions to read: right and wrong, easy and hard, each step with the score that a reward model gave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_e2h.data.firewall import allowed_scope
from rlhf_e2h.data.levels import EASY
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.report.comparisons import REFERENCE, is_optimised

Row = Mapping[str, Any]
SHADES = 5  # step scores 0-.2, .2-.4, ... each have a shade


@dataclass(frozen=True)
class Step:
    """One step of a solution; `score` in [0, 1] and its `shade` 0 to 4 are None where the model gave none."""

    text: str
    score: float | None
    shade: int | None


@dataclass(frozen=True)
class Solution:
    """One solution as the page shows it. `note` says why it is worth reading, if it is."""

    problem: str
    level: int | None
    band: str
    correct: bool | None  # None: not checked, for there is no label
    steps: list[Step]
    score: float | None
    reward_model: str | None
    policy: str | None
    gold: str | None
    note: str


def pick_solutions(
    rows: Sequence[Row], count: int = 10, text_format: TextFormat = SECTIONS, easy_levels: Sequence[int] = EASY
) -> list[Solution]:
    """About `count` rows: as even as possible over (easy, hard) x (right, wrong), one problem once.

    Within a group, policies that were optimised without hard labels and the one they started from come first; the rows
    where score and checker disagree most and those where they agree most take turns, so that failures of the reward
    model are seen, and not only they. Ties go by problem id: the same rows give the same choice.

    Args:
        rows: scored and graded samples: problem_id, problem, level, text (or steps), step_scores, score, correct, and
            where there are any reward_model, policy, gold (the right answer).
    """
    groups: dict[tuple[bool, bool], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (str(row["problem_id"]), str(row.get("sample_id", "")))):
        groups.setdefault((row.get("level") not in easy_levels, not row["correct"]), []).append(row)
    queues = [
        _alternating([row for row in groups[key] if _of_interest(row)])
        + _alternating([row for row in groups[key] if not _of_interest(row)])
        for key in sorted(groups)
    ]
    picked: list[Row] = []
    used: set[str] = set()
    while len(picked) < count and any(queues):
        for queue in queues:
            while queue and queue[0]["problem_id"] in used:
                queue.pop(0)
            if queue and len(picked) < count:
                picked.append(queue.pop(0))
                used.add(picked[-1]["problem_id"])
    picked.sort(key=lambda row: (row.get("level") or 9, not row["correct"]))
    return [_solution(row, text_format, easy_levels) for row in picked]


def pick_rollouts(
    rows: Sequence[Row], each: int = 2, text_format: TextFormat = SECTIONS, easy_levels: Sequence[int] = EASY
) -> list[tuple[str, list[Solution]]]:
    """Rollouts early, in the middle and late in the training of one policy: (heading, solutions), at most `each`.

    The policy is the first one that was trained without hard labels, with the first seed; at each time the hardest
    problems are taken, since these are where a reward model can be misled.

    Args:
        rows: see `sources.training_rollouts`.
    """
    fair = [row for row in rows if allowed_scope("", row["policy"]) == "easy"] or list(rows)
    fair = [row for row in fair if (row["policy"], row["seed"]) == (fair[0]["policy"], fair[0]["seed"])]
    steps = sorted({row["step"] for row in fair})
    found = []
    for step in dict.fromkeys([*steps[:1], *steps[len(steps) // 2 :][:1], *steps[-1:]]):
        at_step = sorted((row for row in fair if row["step"] == step), key=lambda row: -(row.get("level") or 0))
        solutions = [_solution(row, text_format, easy_levels) for row in at_step[:each]]
        found.append((f"{fair[0]['policy']}, step {step}", solutions))
    return found


def _of_interest(row: Row) -> bool:
    policy = row.get("policy") or REFERENCE
    return policy == REFERENCE or (is_optimised(policy) and allowed_scope("", policy) == "easy")


def _alternating(rows: list[Row]) -> list[Row]:
    """The most typical first, then the most surprising, and so on."""
    ordered = sorted(rows, key=_surprise)
    made: list[Row] = []
    while ordered:
        made.append(ordered.pop(0 if len(made) % 2 == 0 else -1))
    return made


def _surprise(row: Row) -> float:
    """Distance between the model's score and the checker's verdict."""
    score = row.get("score")
    return 0.5 if score is None else abs(float(bool(row["correct"])) - score)


def _solution(row: Row, text_format: TextFormat, easy_levels: Sequence[int]) -> Solution:
    steps = row.get("steps") or text_format.split_steps(row["text"])
    scores = row.get("step_scores") or []
    if len(scores) != len(steps):  # scores of another step contract: show the text, colour nothing
        scores = [None] * len(steps)
    level, score = row.get("level"), row.get("score")
    note = ""
    if score is not None and row["correct"] is not None and _surprise(row) > 0.7:  # not for a score near one half
        note = "The reward model was taken in" if not row["correct"] else "The reward model was too strict"
    return Solution(
        problem=row["problem"],
        level=level,
        band="unknown" if level is None else "easy" if level in easy_levels else "hard",
        correct=None if row["correct"] is None else bool(row["correct"]),
        steps=[Step(text, value, _shade(value)) for text, value in zip(steps, scores, strict=True)],
        score=score,
        reward_model=row.get("reward_model"),
        policy=row.get("policy"),
        gold=row.get("gold"),
        note=note,
    )


def _shade(score: float | None) -> int | None:
    return None if score is None else min(SHADES - 1, int(score * SHADES))
