"""What the grammar does not decide: sympy solves inequalities from our own tree, Math-Verify reads the rest.

Runs in workers only. Text reaches Math-Verify after the whitelist in `_readable`, and through its LaTeX grammar
alone; its plain-expression path, which ends in sympy's `parse_expr`, is never used.
"""

from __future__ import annotations

import re
from typing import Any

from rlhf_e2h.checker.extract import extract
from rlhf_e2h.checker.verdict import Verdict

_COMMANDS = (
    r"\frac \sqrt \int \sum \prod \lim \to \infty \pi \cdot \times \sin \cos \tan \log \ln \exp \binom \le \ge \leq"
    r" \geq \ne \neq \lt \gt \pm"
    r" \alpha \beta \gamma \theta \lambda \mu \phi \omega \cup \cap \text \overline \mathbb \in"
    r" \circ \cr \forall \quad "
)
_PLAIN = re.compile(r"[A-Za-z0-9\s+\-*/^_=<>()\[\]{}|,.!'&]*\Z")
MAX_LENGTH = 300
LONGEST_TEXT = 6000  # characters of a solution, at its end
_CODE = re.compile(r"__|[\"'`;@#]|\b(?:import|exec|eval|open|lambda)\b")
_LONG_NUMBER = re.compile(r"\d{12}")
_TOWER = re.compile(r"\^[^+\-*/=,]{0,20}\^|\^\s*\{?\s*\d{4}|\d{4,}\s*!|!\s*!")


def preload() -> None:
    import math_verify  # noqa: F401
    import sympy  # noqa: F401


_BEYOND_US = re.compile(r"\\(?:int|sum|prod|lim)(?![A-Za-z])")


def worth_asking(left: str, right: str) -> bool:
    """Only for notation that our grammar lacks. What it has and still cannot read is garbage, and Math-Verify's reading
    of garbage is a guess."""
    return bool(_BEYOND_US.search(left) or _BEYOND_US.search(right))


def ask(left: str, right: str) -> Verdict:
    """Math-Verify on two texts that our grammar could not compare."""
    return _verify(left, f"${right}$") if _readable(left) and _readable(right) else Verdict(False, "unparsable")


def math_verify_alone(gold: str, answer: str) -> Verdict:
    """The second grader of `e2h check --audit`: Math-Verify on the extracted answers, of ours only the limits."""
    left, right = extract(gold), extract(answer)
    if not left or not right:
        return Verdict(False, "no_answer")
    if max(len(left), len(right)) > MAX_LENGTH or _CODE.search(left + right):
        return Verdict(False, "refused")
    return _verify(left.strip("$ "), f"${right.strip('$ ')}$")


def math_verify_in_text(gold: str, text: str) -> Verdict:
    """The same, but Math-Verify itself looks for the answer in the text of a solution: among its formulas and boxes.

    Only the end of a long text is read, and characters of code are blanked.
    """
    left = extract(gold)
    if not left or len(left) > MAX_LENGTH or _CODE.search(left):
        return Verdict(False, "refused")
    return _verify(left.strip("$ "), _CODE.sub(" ", text[-LONGEST_TEXT:]))


def _verify(left: str, right: str) -> Verdict:
    """Math-Verify on a formula and on a text that holds one."""
    from math_verify import LatexExtractionConfig, parse, verify

    config: Any = [LatexExtractionConfig()]
    a, b = (parse(text, config, parsing_timeout=None) for text in (f"${left}$", right))  # type: ignore[arg-type]
    if not a or not b:
        return Verdict(False, "unparsable")
    same = verify(a, b, timeout_seconds=None)
    return Verdict(True, "symbolic") if same else Verdict(False, "different")


def _readable(text: str) -> bool:
    if len(text) > MAX_LENGTH or _LONG_NUMBER.search(text) or _TOWER.search(text) or "__" in text or "**" in text:
        return False
    commands = re.findall(r"\\[A-Za-z]+", text)
    return all(f"{command} " in _COMMANDS for command in commands) and bool(
        _PLAIN.match(re.sub(r"\\[A-Za-z]+", " ", text))
    )
