"""Rows that stages of evaluation write: outcomes, accuracy by level, solutions to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_e2h.data.firewall import Label
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.samples.bank import Row


def outcome_rows(
    rows: Sequence[Row], correct: Sequence[float], problems: Mapping[str, Row], policy: str, decoding: str,
    reward_model: str | None, labels: str, samples: int,
) -> list[Row]:  # fmt: skip
    fixed = {"policy": policy, "decoding": decoding, "reward_model": reward_model, "labels": labels, "samples": samples}
    return [
        {
            **fixed,
            "problem_id": row["problem_id"],
            "level": problems[row["problem_id"]]["level"],
            "correct": float(value),
            **({"score": row["score"]} if "score" in row else {}),  # of the judge
        }
        for row, value in zip(rows, correct, strict=True)
    ]


def by_level(rows: Sequence[Row], problems: Mapping[str, Row], text_format: TextFormat) -> dict[str, dict[str, float]]:
    """Accuracy, reward-model score, steps and share of unfinished solutions, by level."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(problems[row["problem_id"]]["level"]), []).append(row)
    return {
        level: {
            "n": len(group),
            "accuracy": float(np.mean([row["correct"] for row in group])),
            "unfinished": float(np.mean([not row["finished"] for row in group])),
            "steps": float(np.mean([len(text_format.split_steps(row["text"])) for row in group])),
            **({"reward": float(np.mean([row["score"] for row in group]))} if "score" in group[0] else {}),
        }
        for level, group in sorted(groups.items())
    }


def readable(
    rows: Sequence[Row], problems: Mapping[str, Row], labels: Mapping[str, Label], policy: str, text_format: TextFormat
) -> list[Row]:
    """Up to two right and two wrong solutions of each level, one a problem, with the score of each step."""
    shown: list[Row] = []
    found: dict[tuple[int | None, bool], set[str]] = {}
    for row in rows:
        problem = problems[row["problem_id"]]
        taken = found.setdefault((problem["level"], row["correct"]), set())
        if len(taken) < 2 and row["problem_id"] not in taken:
            taken.add(row["problem_id"])
            shown.append(
                {
                    "policy": policy,
                    "problem_id": row["problem_id"],
                    "level": problem["level"],
                    "problem": problem["problem"],
                    "steps": text_format.split_steps(row["text"]),
                    "step_scores": row["step_scores"],
                    "score": row["score"],
                    "reward_model": row["reward_model"],
                    "answer": row["answer"],
                    "gold": labels[row["problem_id"]].answer,
                    "correct": row["correct"],
                }
            )
    return shown
