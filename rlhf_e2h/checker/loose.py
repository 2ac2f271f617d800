"""A loose comparison for audits: what a person would look at again. It says equal too often, and must decide nothing.

Layout, units, currency, case and what stands before an equals sign count for nothing; numbers are compared by value, a
percentage also by its share.
"""

from __future__ import annotations

import math
import re
import unicodedata

_LAYOUT = re.compile(
    r"\\(?:left|right|big|Big|displaystyle|quad|qquad|boxed|text|textbf|textit|mathrm|mathbf|mbox|operatorname)(?![a-z])"
    r"|\\[,;:! $]|[~${}]|\\[()\[\]]",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?)?|-?\.\d+")
_PERCENT = re.compile(r"\\?%|\bpercent\b")
LONGEST = 300  # characters; a longer text is not an answer


def loosely_equal(gold: str, answer: str) -> bool:
    """Whether two answers say the same to a reader who is not strict."""
    left, right = plain(gold), plain(answer)
    if not left or not right or max(len(left), len(right)) > LONGEST:
        return False
    if _words(left) == _words(right):
        return True
    a, b = _numbers(left), _numbers(right)
    if len(a) != 1 or len(b) != 1:
        return len(a) > 1 and a == b and not _symbols(left) ^ _symbols(right)
    if _symbols(left) ^ _symbols(right):
        return False
    shares = {1.0, *((100.0,) if _PERCENT.search(left) else ()), *((0.01,) if _PERCENT.search(right) else ())}
    return any(math.isclose(a[0], b[0] * share, rel_tol=1e-6, abs_tol=1e-9) for share in shares)


def plain(text: str) -> str:
    """One line in lower case without layout; fractions as a/b, and only what stands after the last equals sign."""
    text = unicodedata.normalize("NFKC", text.strip()).lower().replace("−", "-").replace("–", "-").replace("{,}", ",")
    text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
    text = _LAYOUT.sub(" ", text).replace("^\\circ", " ").replace("°", " ")
    text = _THOUSANDS.sub("", text).rpartition("=")[2]
    return re.sub(r"\s+", " ", text).strip(" .,;:")


def _words(text: str) -> str:
    return re.sub(r"[\s*\\()\[\]'\"]|\bthe\b|\ban?\b", "", text)


def _numbers(text: str) -> list[float]:
    values = []
    for found in _NUMBER.findall(re.sub(r"\s*/\s*", "/", re.sub(r"-\s+(?=\d)", "-", text))):
        above, _, below = found.partition("/")
        values.append(float(above) / float(below) if below and float(below) else float(above))
    return values


def _symbols(text: str) -> frozenset[str]:
    """What makes a number part of an expression: variables alone, operators, commands."""
    return frozenset(re.findall(r"\\[a-z]+|(?<![a-z\\])[a-z](?![a-z])|[\^+*<>]", re.sub(r"\\%", "", text)))
