"""The outcome of one comparison."""

from __future__ import annotations

from typing import NamedTuple

# What a `reason` may be, and what it says.
REASONS = {
    "string": "the normalised texts are the same",
    "number": "both are numbers, equal as exact rationals",
    "symbolic": "equal as mathematics: an identity, a set, an interval, an equation",
    "different": "both were understood and they are not the same",
    "unparsable": "at least one side is not mathematics that the grammar knows, and the texts differ",
    "no_answer": "the answer is empty or missing",
    "timeout": "no decision within the wall-clock limit; the worker was killed",
    "refused": "too large or too deep to evaluate safely, or holding characters that no answer needs",
}


class Verdict(NamedTuple):
    """Whether two answers are the same, and one of `REASONS` saying how that was decided."""

    equal: bool
    reason: str
