"""The decision about one pair: `quick` in the calling process, `full` in a worker."""

from __future__ import annotations

import re
from fractions import Fraction

from rlhf_e2h.checker.extract import extract
from rlhf_e2h.checker.verdict import Verdict

VERSION = "1"
MAX_ANSWER = 1000
_DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)\Z")
_REFUSED = re.compile(r"__|\*\*|[\"';`@]|\b(?:import|exec|eval|open|lambda|factorial|binomial|zeta|gamma|range)\b")


def preload() -> None:
    import math_verify  # noqa: F401


def cache_key(gold: str, answer: str) -> tuple[str, str]:
    return extract(gold) or "", extract(answer) or ""


def quick(gold: str, answer: str, strict: bool) -> Verdict | None:
    left, right = extract(gold), extract(answer)
    if not right:
        return Verdict(False, "no_answer")
    left = left or ""
    a, b = re.sub(r"\s", "", left), re.sub(r"\s", "", right)
    if a == b:
        return Verdict(True, "string")
    if max(len(a), len(b)) > MAX_ANSWER or _REFUSED.search(b):
        return Verdict(False, "refused")
    if _DECIMAL.match(a) and _DECIMAL.match(b):
        return Verdict(True, "number") if Fraction(a) == Fraction(b) else Verdict(False, "different")
    return Verdict(False, "different") if strict else None


def full(gold: str, answer: str) -> Verdict:
    from math_verify import parse, verify

    left, right = (parse(f"${extract(text)}$", parsing_timeout=None) for text in (gold, answer))
    if not left or not right:
        return Verdict(False, "unparsable")
    same = verify(left, right, timeout_seconds=None)
    return Verdict(True, "symbolic") if same else Verdict(False, "different")
