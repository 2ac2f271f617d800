"""Exact rational values, with every intermediate result bounded in size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction

from rlhf_e2h.checker.nodes import Node, RefusedError, free_symbols

MAX_BITS = 40_000  # of a numerator or denominator
MAX_FACTORIAL = 3000

Values = Mapping[str, Fraction]


class InexactError(ValueError):
    """The value is not rational, or the grammar's node has no value of its own."""


class UndefinedError(ValueError):
    """Division by zero at this point."""


def exact(node: Node, values: Values) -> Fraction:
    """The value with symbols replaced by `values`.

    Raises:
        InexactError: irrational, or no number (a set, an unexpanded ±).
        UndefinedError: division by zero.
        RefusedError: an intermediate result above `MAX_BITS`.
    """
    op, args = node
    if op == "num":
        return Fraction(args[0])
    if op == "sym":
        return values[args[0]]
    if op == "add":
        return _bounded(sum((exact(arg, values) for arg in args), Fraction(0)))
    if op == "mul":
        product = Fraction(1)
        for arg in args:
            product = _bounded(product * exact(arg, values))
        return product
    if op == "div":
        above, below = exact(args[0], values), exact(args[1], values)
        if below == 0:
            raise UndefinedError
        return _bounded(above / below)
    if op == "pow":
        return power(exact(args[0], values), exact(args[1], values))
    if op == "root":
        index = exact(args[1], values)
        if index == 0:
            raise UndefinedError
        return power(exact(args[0], values), 1 / index)
    if op == "deg":
        return exact(args[0], values)
    if op == "fn" and args[0].startswith("apply:"):
        return opaque(args[0], (values[args[0]], *(exact(arg, values) for arg in args[1:])))
    if op == "fn":
        return _function(args[0], [exact(arg, values) for arg in args[1:]])
    if op == "det":
        return determinant([[exact(cell, values) for cell in row] for row in args])
    raise InexactError(op)


def rational(node: Node) -> Fraction | None:
    """The value of a node without symbols; None where it has symbols, is irrational or undefined."""
    if free_symbols(node):
        return None
    try:
        return exact(node, {})
    except (InexactError, UndefinedError):
        return None


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """`base ** exponent`; a fractional exponent only where the root is rational, odd roots of negatives being real."""
    if exponent.denominator != 1:
        if exponent.denominator > 64:
            raise InexactError("root")
        base = _root(base, exponent.denominator)
    whole = exponent.numerator
    if base == 0 and whole < 0:
        raise UndefinedError
    if base in (0, 1):
        return base if whole else Fraction(1)
    if base == -1:
        return Fraction(-1 if whole % 2 else 1)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(whole) * max(1, size - 1) > MAX_BITS:
        raise RefusedError(f"a power of about {abs(whole).bit_length() + size.bit_length()} bits in its length")
    return base**whole


def _root(base: Fraction, index: int) -> Fraction:
    if base < 0:
        if index % 2 == 0:
            raise InexactError("even root of a negative number")
        return -_root(-base, index)
    return Fraction(_integer_root(base.numerator, index), _integer_root(base.denominator, index))


def _integer_root(value: int, index: int) -> int:
    root = math.isqrt(value) if index == 2 else _newton_root(value, index)
    if root**index != value:
        raise InexactError("root")
    return root


def _newton_root(value: int, index: int) -> int:
    if value < 2:
        return value
    guess = 1 << -(-value.bit_length() // index)
    while True:
        better = ((index - 1) * guess + value // guess ** (index - 1)) // index
        if better >= guess:
            return guess
        guess = better


def _function(name: str, arguments: list[Fraction]) -> Fraction:
    if name in ("abs", "floor", "ceil", "sgn") and len(arguments) == 1:
        value = arguments[0]
        if name in ("floor", "ceil"):
            return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
        return abs(value) if name == "abs" else Fraction((value > 0) - (value < 0))
    if name in ("max", "min"):
        return max(arguments) if name == "max" else min(arguments)
    if name in ("gcd", "lcm") and all(value.denominator == 1 for value in arguments):
        integers = [int(value) for value in arguments]
        return _bounded(Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers)))
    if name == "mod" and arguments[1] != 0:
        return arguments[0] % arguments[1]
    if name in ("factorial", "binom"):
        return _combinatorial(name, arguments)
    if name == "log" and len(arguments) <= 2:
        return _logarithm(arguments[0], arguments[1] if len(arguments) == 2 else Fraction(10))
    raise InexactError(name)


def _combinatorial(name: str, arguments: list[Fraction]) -> Fraction:
    if not all(value.denominator == 1 and value >= 0 for value in arguments):
        raise InexactError(name)
    if max(arguments) > MAX_FACTORIAL:
        raise RefusedError(f"{name} of a number above {MAX_FACTORIAL}")
    integers = [int(value) for value in arguments]
    return Fraction(math.factorial(integers[0]) if name == "factorial" else math.comb(*integers))


def _logarithm(value: Fraction, base: Fraction) -> Fraction:
    """Rational logarithms: `\\log_2 8`, `\\log_8 2`, `\\log 0.01`."""
    if value <= 0 or base <= 0 or base == 1:
        raise InexactError("log")
    estimate = Fraction(_log(value) / _log(base)).limit_denominator(12)
    try:
        if abs(estimate) < 1000 and base**estimate.numerator == value**estimate.denominator:
            return estimate
    except (OverflowError, ZeroDivisionError):
        pass
    raise InexactError("log")


def _log(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)


def determinant(rows: list[list[Fraction]]) -> Fraction:
    """Laplace expansion along the first row; small matrices only."""
    if any(len(row) != len(rows) for row in rows) or len(rows) > 6:
        raise InexactError("determinant")
    if len(rows) == 1:
        return rows[0][0]
    total = Fraction(0)
    for column, head in enumerate(rows[0]):
        minor = [row[:column] + row[column + 1 :] for row in rows[1:]]
        total += (-1) ** column * head * determinant(minor)
    return _bounded(total)


def opaque(name: str, arguments: tuple[object, ...]) -> Fraction:
    """A fixed pseudo-random value in (0.3, 2.3) for an unknown function, so that unlike things differ.

    The first argument is the point's own number for it: `f(1) < f(2)` must not be a fact about two constants.
    """
    try:
        digest = hashlib.sha256(repr((name, arguments)).encode()).digest()
    except ValueError:  # integers beyond what Python converts to text
        raise RefusedError("an argument of thousands of digits") from None
    return Fraction(3, 10) + Fraction(2 * (int.from_bytes(digest[:4], "big") % 1009), 1009)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise RefusedError(f"an intermediate result of more than {MAX_BITS} bits")
    return value
