"""A problem together with its label. It exists only inside `prepare`; on disk the two are kept apart (firewall.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One problem with its reference answer and solution.

    `level` is 1-5, or None where the source gives none. `origin` is the side of the source that the row came from
    ("train" or "test"); it decides nothing by itself, the split does.
    """

    problem_id: str
    problem: str
    level: int | None
    subject: str
    answer: str
    solution: str
    source: str
    origin: str = "train"
