"""The method in five lines of Python: load a policy, sample, grade, score, vote.

    import rlhf_e2h as e2h
    policy = e2h.load_policy("Qwen/Qwen2.5-Math-1.5B-Instruct")
    samples = e2h.sample(policy, ["What is 7 * 8?"], n=8)
    graded = e2h.grade(samples, ["56"])
    scored = e2h.score(graded, "runs/prm")
    print(e2h.vote(scored))

Samples are plain dicts, the rows of `samples.jsonl` with `problem`; each function gives new rows with more fields.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.score import Scorer
from reward_models.voting import majority, weighted_vote
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.records import Row
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.samples import bank
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.models import Policy, open_policy
from rlhf_e2h.training.precision import sampling_dtype


def load_policy(
    path: str | Path,
    format: str | FormatSettings = "auto",
    dtype: str | None = None,
) -> Policy:
    """A policy from a model folder, a PEFT folder or a hub id.

    Args:
        format: sections, chat, minerva or auto, or all of a format's settings; see docs/text_formats.md.
        dtype: float32 or bfloat16; that in which stages sample if not given.
    """
    settings = FormatSettings(format) if isinstance(format, str) else format  # type: ignore[arg-type]
    return open_policy(path, dtype or sampling_dtype(path), text_format=settings)


def sample(
    policy: Policy,
    problems: Sequence[str],
    n: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 512,
    seed: int = 0,
    **decoding: Any,
) -> list[Row]:
    """`n` solutions of each problem, next to each other: rows with problem, text, steps, answer, finished.

    `decoding` takes the other settings of `bank.Decoding`: top_k, top_p, min_p, stop, batch_size, engine.

    Raises:
        ConfigError: a problem that does not fit the model with `max_new_tokens`.
    """
    settings = bank.Decoding(n=n, temperature=temperature, max_new_tokens=max_new_tokens, **decoding)
    rows = [{"problem_id": str(index), "problem": problem} for index, problem in enumerate(problems)]
    texts = policy.text_format.of_rows()
    return [
        {**row, "problem": problems[int(row["problem_id"])], "steps": texts.split_steps(row["text"])}
        for row in bank.sample(policy, rows, settings, seed)
    ]


def grade(samples: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[Row]:
    """The samples with `correct` and `reason`; `answers` are the right ones, in the order of the problems.

    Raises:
        ConfigError: another number of answers than of problems.
    """
    ids = list(dict.fromkeys(row["problem_id"] for row in samples))
    if len(ids) != len(answers):
        raise ConfigError(f"grade: {len(answers)} answers for the samples of {len(ids)} problems; give one each")
    labels = {key: Label(key, answer, "", "test") for key, answer in zip(ids, answers, strict=True)}
    return bank.grade([dict(row) for row in samples], labels)


def score(samples: Sequence[Mapping[str, Any]], reward_model: str | Path | Scorer) -> list[Row]:
    """The samples with `step_scores` and `score` of a reward model: its folder, hub id, or an open `Scorer`."""
    scorer = reward_model if isinstance(reward_model, Scorer) else Scorer.from_pretrained(reward_model)
    scored = scorer.score_texts([row["problem"] for row in samples], [list(row["steps"]) for row in samples])
    return [
        {**row, "step_scores": result.steps, "score": result.score} for row, result in zip(samples, scored, strict=True)
    ]


def vote(samples: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """The answer of each problem: weighted by `score` where samples have one, else the majority; None without any.

    Answers that the checker finds equal are one.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in samples:
        groups[row["problem_id"]].append(row)
    chosen: list[str | None] = []
    with CheckerPool() as pool:
        for rows in groups.values():
            classes = np.array([answer_classes([row["answer"] for row in rows], pool)])
            scored = all("score" in row for row in rows)
            scores = np.array([[row["score"] for row in rows]]) if scored else None
            [winner] = majority(classes) if scores is None else weighted_vote(classes, scores)
            chosen.append(None if winner < 0 else rows[int(winner)]["answer"])
    return chosen
