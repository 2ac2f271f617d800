"""Rows of our own making in the shape of the public data sets."""

from __future__ import annotations

from typing import Any

SUBJECTS = ("Algebra", "Geometry")


def math_row(number: int, level: Any, subject: str = "Algebra") -> dict[str, Any]:
    """A problem that shares no three words with another number's, so that none is a near-duplicate."""
    word = "".join("abcdefghij"[int(digit)] for digit in str(number))
    return {
        "problem": f"{word}a {word}b {word}c: find {word}d in ${word} = {number}$ {word}e {word}f {word}g.",
        "solution": f"We see {word}. So it is \\boxed{{{number}}}.",
        "level": level,
        "subject": subject,
    }


def math_rows(start: int, per_level: int) -> list[dict[str, Any]]:
    """`per_level` rows of each level 1-5, subjects in turn."""
    return [
        math_row(start + 100 * level + i, level, SUBJECTS[i % 2]) for level in range(1, 6) for i in range(per_level)
    ]
