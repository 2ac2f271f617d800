r"""One form for a scalar: a sum of products with rational coefficients and reduced powers.

Equal forms prove equality without digits or a worker: `\frac{1}{\sqrt3}` and `\frac{\sqrt3}{3}`, `2ab` and `2ba`,
`\pi/6 \cdot 4`. Different forms prove nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlhf_e2h.checker.exact import InexactError, UndefinedError, power, rational
from rlhf_e2h.checker.nodes import IMAGINARY, Node, free_symbols, num

MAX_TERMS = 40
MAX_FACTORED = 1 << 40  # larger integers under a root stay as they are

Monomial = tuple[tuple[Any, Fraction], ...]  # (base, exponent) pairs in order, no base twice
Poly = dict[Monomial, Fraction]


@lru_cache(maxsize=16_384)
def canonical(node: Node) -> Any:
    """A hashable form; equal forms mean equal values wherever both are defined. RefusedError if too large."""
    return _freeze(_poly(node))


def _freeze(poly: Poly) -> Any:
    return tuple(sorted(poly.items(), key=repr))


def _atom(base: Any, exponent: Fraction = Fraction(1)) -> Poly:
    return {((base, exponent),): Fraction(1)}


def _poly(node: Node) -> Poly:
    op, args = node
    if op == "num":
        return {(): args[0]} if args[0] else {}
    if op in ("sym", "const"):
        return _atom(node)
    if op == "deg":
        return _poly(args[0])
    if op == "add":
        return _sum([_poly(arg) for arg in args])
    if op == "mul":
        product: Poly = {(): Fraction(1)}
        for arg in args:
            product = _times(product, _poly(arg))
        return product
    if op == "div":
        return _times(_poly(args[0]), _power(_poly(args[1]), Fraction(-1)))
    if op in ("pow", "root"):
        exponent = rational(args[1])
        if exponent is None or (op == "root" and exponent == 0):
            return _atom((op, canonical(args[0]), canonical(args[1])))
        return _power(_poly(args[0]), exponent if op == "pow" else 1 / exponent)
    if not free_symbols(node):
        value = rational(node)
        if value is not None:
            return {(): value} if value else {}
    if op == "fn":
        return _atom((op, args[0], *(canonical(arg) for arg in args[1:])))
    raise InexactError(op)


def _sum(polys: list[Poly]) -> Poly:
    total: Poly = {}
    for poly in polys:
        for monomial, coefficient in poly.items():
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return {monomial: coefficient for monomial, coefficient in total.items() if coefficient}


def _times(left: Poly, right: Poly) -> Poly:
    if len(left) * len(right) > MAX_TERMS:
        return _product_of_atoms(left, right)
    return _sum([_term(a, b, x * y) for a, x in left.items() for b, y in right.items()])


def _product_of_atoms(left: Poly, right: Poly) -> Poly:
    """Too many terms to multiply out: each longer factor is kept as a whole."""
    wrapped = [poly if len(poly) == 1 else _whole(poly, Fraction(1)) for poly in (left, right)]
    (a, x), (b, y) = (next(iter(poly.items())) for poly in wrapped)
    return _term(a, b, x * y)


def _whole(poly: Poly, exponent: Fraction) -> Poly:
    """A sum as a base, its leading coefficient taken out so that multiples look alike."""
    frozen = _freeze(poly)
    lead = frozen[0][1]
    base = ("sum", tuple((monomial, coefficient / lead) for monomial, coefficient in frozen))
    if exponent.denominator != 1:
        return _atom(("sum", frozen), exponent)
    return {((base, exponent),): power(lead, exponent)}


def _term(a: Monomial, b: Monomial, coefficient: Fraction) -> Poly:
    """The product of two monomials: exponents of a base add, integers leave roots, i^2 is -1."""
    exponents: dict[Any, Fraction] = {}
    for base, exponent in (*a, *b):
        exponents[base] = exponents.get(base, Fraction(0)) + exponent
    kept = []
    for base, exponent in exponents.items():
        if isinstance(base, int):
            whole = math.floor(exponent)
            coefficient *= power(Fraction(base), Fraction(whole))
            exponent -= whole
        elif base == IMAGINARY and exponent.denominator == 1:
            coefficient *= -1 if exponent % 4 >= 2 else 1
            exponent = exponent % 2
        if exponent:
            kept.append((base, exponent))
    return {tuple(sorted(kept, key=repr)): coefficient} if coefficient else {}


def _power(poly: Poly, exponent: Fraction) -> Poly:
    if exponent == 0:
        return {(): Fraction(1)}
    if not poly:
        if exponent < 0:
            raise UndefinedError
        return {}
    if len(poly) > 1:
        if exponent in (2, 3):
            return _times(poly, _power(poly, exponent - 1)) if exponent == 3 else _times(poly, poly)
        return poly if exponent == 1 else _whole(poly, exponent)
    ((monomial, coefficient),) = poly.items()
    if exponent.denominator == 1:
        raised = tuple((base, own * exponent) for base, own in monomial)
        return _term(raised, (), power(coefficient, exponent))
    # A root may be drawn factor by factor only from what is positive.
    if not all(
        isinstance(base, int) or base in (Node("const", ("pi",)), Node("const", ("e",))) for base, _ in monomial
    ):
        return _atom(("sum", _freeze(poly)), exponent)
    root = _number_power(coefficient, exponent)
    return _times(root, _term(tuple((base, own * exponent) for base, own in monomial), (), Fraction(1)))


def _number_power(value: Fraction, exponent: Fraction) -> Poly:
    if value < 0:
        if exponent.denominator == 2:
            return _times(_power(_atom(IMAGINARY), Fraction(exponent.numerator)), _number_power(-value, exponent))
        if exponent.denominator % 2 == 0:
            return _atom(("power", num(value)), exponent)
        sign = Fraction(-1 if exponent.numerator % 2 else 1)
        return _times({(): sign}, _number_power(-value, exponent))
    if max(value.numerator, value.denominator) > MAX_FACTORED or abs(exponent) > 1000:
        return _atom(("power", num(value)), exponent)
    primes = [(p, k * exponent) for p, k in _factors(value.numerator)]
    primes += [(p, -k * exponent) for p, k in _factors(value.denominator)]
    return _term(tuple(primes), (), Fraction(1))


@lru_cache(maxsize=4096)
def _factors(value: int) -> tuple[tuple[int, int], ...]:
    """Prime factors up to 10^4; what is left counts as one factor (a perfect square is seen)."""
    found = []
    prime = 2
    while prime * prime <= value and prime < 10_000:
        count = 0
        while value % prime == 0:
            value //= prime
            count += 1
        if count:
            found.append((prime, count))
        prime += 1 if prime == 2 else 2
    if value > 1:
        root = math.isqrt(value)
        found.append((root, 2) if root * root == value else (value, 1))
    return tuple(found)


def same_form(left: Node, right: Node) -> bool:
    """False proves nothing: the forms differ, or a side has none (a plain ValueError: integers too long to sort by)."""
    try:
        return bool(canonical(left) == canonical(right))
    except (InexactError, UndefinedError, ValueError):
        return False
