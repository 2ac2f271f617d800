"""Rows of the worlds that are made by a rule: distinct problems of each level, with their exact solutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rlhf_e2h.prompts import SECTIONS

TRIES = 10_000  # draws in a row without a new problem, after which there is none


def distinct_rows(
    source: str,
    n_per_level: Mapping[int, int],
    seed: int,
    exclude: Iterable[str],
    draw: Callable[[int, np.random.Generator], str],
    solve: Callable[[str], tuple[list[str], str]],
) -> list[dict[str, Any]]:
    """`n_per_level[level]` problems of each level, none of them in `exclude`; duplicates are drawn again.

    Args:
        draw: a problem of a level. solve: its steps and its answer.

    Raises:
        ValueError: a level has fewer distinct problems than are asked for.
    """
    rng = np.random.default_rng(seed)
    seen = set(exclude)
    rows = []
    for level, count in sorted(n_per_level.items()):
        for index in range(count):
            problem = next((text for text in (draw(level, rng) for _ in range(TRIES)) if text not in seen), None)
            if problem is None:
                raise ValueError(
                    f"source {source}: {count} problems of level {level} are asked for, and after {index} of them "
                    f"{TRIES} draws gave no new one; ask for fewer"
                )
            seen.add(problem)
            steps, answer = solve(problem)
            rows.append(
                {
                    "problem_id": f"{source}-{seed}-{level}-{index:05d}",
                    "problem": problem,
                    "level": level,
                    "subject": "arithmetic",
                    "answer": answer,
                    "solution": SECTIONS.solution(steps, answer),
                    "source": source,
                }
            )
    return rows
