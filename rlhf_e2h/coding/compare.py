"""Whether the output of a program is the expected one. Pure functions on texts."""

from __future__ import annotations

import json
import math
from typing import Any

RELATIVE = 1e-6  # numbers with a decimal point or exponent may differ by this share


def same_output(expected: Any, printed: str) -> bool:
    """Standard output against the expected text (or list of lines, as some rows of APPS have it).

    Lines and words must agree, trailing blanks and empty lines do not count, and a number that is expected with a
    decimal point may be off by a millionth.
    """
    text = "\n".join(map(str, expected)) if isinstance(expected, list) else str(expected)
    return _agree(_lines(text), _lines(printed))


def same_result(expected: Any, printed: str) -> bool:
    """The JSON that the driver of a called function printed, against the expected value.

    APPS wraps some results in a list of one; tuples come out of JSON as lists.
    """
    try:
        value = json.loads(printed.strip().splitlines()[-1])
    except (json.JSONDecodeError, IndexError):
        return False
    return any(_equal(one, value) for one in ([expected, expected[0]] if _wrapped(expected) else [expected]))


def _wrapped(expected: Any) -> bool:
    return isinstance(expected, list) and len(expected) == 1


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, float) or isinstance(right, float):
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (left, right))
        return numbers and math.isclose(left, right, rel_tol=RELATIVE, abs_tol=RELATIVE)
    return type(left) is type(right) and left == right


def _lines(text: str) -> list[list[str]]:
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if words]


def _agree(expected: list[list[str]], printed: list[list[str]]) -> bool:
    if len(expected) != len(printed):
        return False
    return all(
        len(wanted) == len(given) and all(map(_same_word, wanted, given))
        for wanted, given in zip(expected, printed, strict=True)
    )


def _same_word(wanted: str, given: str) -> bool:
    if wanted == given:
        return True
    if not any(mark in wanted for mark in ".eE"):
        return False
    try:
        return math.isclose(float(wanted), float(given), rel_tol=RELATIVE, abs_tol=RELATIVE)
    except ValueError:
        return False
