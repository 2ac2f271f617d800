"""Are two scalar expressions the same? By values at fixed points: exact where rational, else numeric.

Two different expressions that answers are made of agree at none or few of these points; two equal ones agree at all.
A difference of exact values, or of floats far beyond their error, is certain; agreement of floats is not, and asks
for many digits in a worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlhf_e2h.checker.approximate import Digits, Evaluator, Floats, Undecided, is_real
from rlhf_e2h.checker.canonical import same_form
from rlhf_e2h.checker.exact import InexactError, UndefinedError, exact
from rlhf_e2h.checker.nodes import Node, free_symbols, num, subtract, walk

# Ranges of the points: positive, all negative (sqrt(a^2) is not a), mixed signs, small, larger.
_RANGES = ((0.5, 2.5), (-3.0, -0.2), (-2.0, 2.0), (0.1, 0.9), (1.0, 3.0), (3.0, 9.0), (-1.0, 2.0), (-0.9, 0.9))
POINTS = len(_RANGES)
EXACT_POINTS = 4
DOUBLE_DIGITS = 15  # a decimal of this many significant digits stands for the value it is the rounding of
DOUBLE_ERROR = 2.3e-16  # one rounding, relative

Same = Callable[[Node, Node], bool]


@lru_cache(maxsize=4096)
def _coordinate(name: str, point: int) -> Fraction:
    low, high = _RANGES[point]
    digest = hashlib.sha256(f"{name}/{point}".encode()).digest()
    fraction = Fraction(int.from_bytes(digest[:4], "big") % 997 + 1, 999)
    return Fraction(low) + (Fraction(high) - Fraction(low)) * fraction


def point_values(names: frozenset[str], point: int) -> Mapping[str, Fraction]:
    return {name: _coordinate(name, point) for name in names}


def same_quick(left: Node, right: Node) -> bool:
    """Decide in the calling process.

    Raises:
        Undecided: needs many digits.
        RefusedError: too large to compute.
    """
    if left == right:
        return True
    names = free_symbols(left) | free_symbols(right)
    try:
        return _same_exact(left, right, names)
    except InexactError:
        pass
    backend = Floats()
    for point in range(POINTS if names else 1):
        pair = _values(left, right, backend, names, point)
        if pair is None or _close(*pair, backend.tolerance):
            continue
        if not names or (is_real(pair[0], 1e-9) and is_real(pair[1], 1e-9)):
            return False
    if same_form(left, right):
        return True
    raise Undecided("floats agree")


def same_full(left: Node, right: Node) -> bool:
    """Decide with many digits; Undecided if no point gives both sides a value."""
    try:
        return same_quick(left, right)
    except Undecided:
        pass
    names = free_symbols(left) | free_symbols(right)
    backend = Digits(50 + 2 * _literal_digits(left, right))
    real_agreements, complex_verdicts = 0, []
    for point in range(POINTS if names else 1):
        pair = _values(left, right, backend, names, point)
        if pair is None:
            continue
        agree = _close(*pair, backend.tolerance)
        if not names:
            return agree or _is_rounding(left, right, pair[0], pair[1])
        if is_real(pair[0], 1e-25) and is_real(pair[1], 1e-25):
            if not agree:
                return False
            real_agreements += 1
        else:
            complex_verdicts.append(agree)
    if real_agreements >= 2:
        return True
    if len(complex_verdicts) + real_agreements >= 2:
        return all(complex_verdicts)
    raise Undecided("no point gives both a value")


def _same_exact(left: Node, right: Node, names: frozenset[str]) -> bool:
    compared = 0
    for point in range(EXACT_POINTS if names else 1):
        values = point_values(names, point)
        try:
            a, b = exact(left, values), exact(right, values)
        except UndefinedError:
            continue
        if a != b:
            return not names and _is_rounding(left, right, a, b)
        compared += 1
    if compared == 0:
        raise InexactError("undefined everywhere")
    return True


def _values(
    left: Node, right: Node, backend: Floats | Digits, names: frozenset[str], point: int
) -> tuple[Any, Any, Any] | None:
    evaluator = Evaluator(backend, point_values(names, point))
    try:
        return evaluator.value(left), evaluator.value(right), evaluator.scale
    except Undecided:
        return None


def _close(a: Any, b: Any, scale: Any, tolerance: Any) -> bool:
    """Equal up to `tolerance` relative to the values, or both rounding errors of what cancelled."""
    distance, size = abs(a - b), max(abs(a), abs(b))
    return bool(distance <= tolerance * size or size <= tolerance * scale)


def _is_rounding(left: Node, right: Node, a: Any, b: Any) -> bool:
    """One side is a decimal with all digits of a double, and the other is the number that it is the rounding of."""
    distance = abs(a - b)
    for literal, other in ((left, right), (right, left)):
        digits = literal.args[1] or 0 if literal.op == "num" else 0
        short = other.op != "num" or (other.args[1] or 0) < DOUBLE_DIGITS
        if digits >= DOUBLE_DIGITS and short:
            if other.op != "num" or other.args[1] is None:
                return bool(distance <= float(_last_place(literal)) * 0.5001) or _is_double(digits, distance, b)
            return _is_double(digits, distance, b)  # 0.30000000000000004 and 0.3
    return False


def _is_double(digits: int, distance: Any, value: Any) -> bool:
    return digits > DOUBLE_DIGITS and bool(distance <= DOUBLE_ERROR * abs(value))


def _last_place(literal: Node) -> Fraction:
    """One unit in the last place as written."""
    value, digits = abs(literal.args[0]), literal.args[1]
    place = Fraction(1)
    while value >= 10:
        value, place = value / 10, place * 10
    while 0 < value < 1:
        value, place = value * 10, place / 10
    return place / Fraction(10) ** (digits - 1)


def _literal_digits(*nodes: Node) -> int:
    """Digits of the numbers and rational powers in both: a comparison must resolve more than these."""
    bits = 0
    for part in (part for node in nodes for part in walk(node) if part.op in ("num", "pow")):
        try:
            value = exact(part, {})
        except (InexactError, UndefinedError, KeyError):
            continue
        bits += value.numerator.bit_length() + value.denominator.bit_length()
    return min(bits // 3, 2000)


def proportional(left: Node, right: Node, same: Same) -> int:
    """Sign of the constant c with left = c * right, c not 0; 0 if there is none. Exact points, then `same`."""
    names = free_symbols(left) | free_symbols(right)
    factor: Fraction | None = None
    try:
        for point in range(EXACT_POINTS + 1):
            values = point_values(names, point)
            try:
                a, b = exact(left, values), exact(right, values)
            except UndefinedError:
                continue
            if (a == 0) != (b == 0):
                return 0
            if b == 0:
                continue
            if factor is not None and a != factor * b:
                return 0
            factor = a / b
        return 0 if factor is None else 1 if factor > 0 else -1
    except InexactError:
        pass
    return _proportional_inexact(left, right, names, same)


def _proportional_inexact(left: Node, right: Node, names: frozenset[str], same: Same) -> int:
    """The constant from one float point; then left * right(p) = right * left(p) must hold everywhere."""
    for point in range(POINTS):
        values = point_values(names, point)
        pair = _values(left, right, Floats(), names, point)
        if pair is None or not is_real(pair[0], 1e-9) or not is_real(pair[1], 1e-9):
            continue
        if abs(pair[0]) < 1e-9 or abs(pair[1]) < 1e-9:
            continue
        at_point = [substitute(side, values) for side in (left, right)]
        if same(Node("mul", (left, at_point[1])), Node("mul", (right, at_point[0]))):
            return 1 if (pair[0] > 0) == (pair[1] > 0) else -1
        return 0
    raise Undecided("no point to compare at")


def substitute(node: Node, values: Mapping[str, Fraction]) -> Node:
    if node.op == "sym":
        return Node("num", (values[node.args[0]], None))
    if node.op == "fn" and node.args[0].startswith("apply:"):
        try:
            return num(exact(node, values))
        except (InexactError, UndefinedError):
            raise Undecided("an unknown function of an irrational number") from None
    args = tuple(substitute(arg, values) if isinstance(arg, Node) else arg for arg in node.args)
    return Node(node.op, args)


__all__ = ["Same", "point_values", "proportional", "same_full", "same_quick", "subtract"]
