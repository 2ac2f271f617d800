"""Numeric values: machine floats in the calling process, many digits (mpmath) in a worker. One evaluator for both."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from rlhf_e2h.checker.exact import InexactError, UndefinedError, opaque, rational
from rlhf_e2h.checker.nodes import Node, RefusedError

MAX_LOG = 1e6  # natural logarithm of the largest power that is computed
MAX_GAMMA = 1e4


class Undecided(ValueError):  # noqa: N818  not a fault: the caller asks somebody else
    """This evaluator cannot tell."""


class Floats:
    """Complex machine numbers."""

    tolerance: Any = 1e-7
    pi, e, i = math.pi, math.e, 1j

    def number(self, value: Fraction) -> Any:
        return float(value)

    def power(self, base: Any, exponent: Any) -> Any:
        return base**exponent

    def call(self, name: str, *arguments: Any) -> Any:
        value = arguments[0]
        if isinstance(value, complex) or name in ("arcsin", "arccos", "log", "ln"):
            return _simplest(_COMPLEX[name](*arguments))
        return _REAL[name](*arguments)

    def key(self, value: Any) -> Any:
        return complex(round(complex(value).real, 6), round(complex(value).imag, 6))


_MPMATH_NAMES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "abs": "fabs", "sgn": "sign", "binom": "binomial",
}  # fmt: skip


class Digits:
    """mpmath numbers of a given precision in decimal digits."""

    def __init__(self, digits: int) -> None:
        import mpmath

        self._mp = mpmath.mp.clone() if hasattr(mpmath.mp, "clone") else mpmath.mp
        self._mp.dps = digits
        self.tolerance: Any = self._mp.mpf(10) ** -(digits - 20)
        self.pi, self.e, self.i = +self._mp.pi, +self._mp.e, self._mp.mpc(0, 1)

    def number(self, value: Fraction) -> Any:
        return self._mp.mpf(value.numerator) / value.denominator

    def power(self, base: Any, exponent: Any) -> Any:
        return self._mp.power(base, exponent)

    def call(self, name: str, *arguments: Any) -> Any:
        value = getattr(self._mp, _MPMATH_NAMES.get(name, name))(*arguments)
        return value.real if isinstance(value, self._mp.mpc) and value.imag == 0 else value

    def key(self, value: Any) -> Any:
        return self._mp.nstr(value, 15)


def _simplest(value: complex) -> complex | float:
    return value.real if isinstance(value, complex) and value.imag == 0 else value


def _gamma_binomial(n: float, k: float) -> float:
    return math.gamma(n + 1) / (math.gamma(k + 1) * math.gamma(n - k + 1))


_COMPLEX: Mapping[str, Callable[..., Any]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z), "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "log": cmath.log, "ln": cmath.log,
    "exp": cmath.exp, "abs": abs,
}  # fmt: skip
_REAL: Mapping[str, Callable[..., Any]] = {
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "cot": lambda x: 1 / math.tan(x),
    "sec": lambda x: 1 / math.cos(x), "csc": lambda x: 1 / math.sin(x), "arctan": math.atan,
    "arccot": lambda x: math.atan(1 / x), "arcsec": lambda x: math.acos(1 / x), "arccsc": lambda x: math.asin(1 / x),
    "sinh": math.sinh, "cosh": math.cosh, "tanh": math.tanh, "exp": math.exp, "abs": abs, "floor": math.floor,
    "ceil": math.ceil, "factorial": lambda x: math.gamma(x + 1), "binom": _gamma_binomial,
    "sgn": lambda x: (x > 0) - (x < 0),
}  # fmt: skip


class Evaluator:
    """`value(node)` at one point. `scale` is the largest operand of a sum or argument of a function: what cancels
    there leaves rounding errors of that size."""

    def __init__(self, backend: Floats | Digits, values: Mapping[str, Fraction]) -> None:
        self.backend, self.values, self.scale = backend, values, backend.number(Fraction(0))

    def value(self, node: Node) -> Any:
        """Raises Undecided (no value here), RefusedError (too large)."""
        try:
            return self._value(node)
        except (ZeroDivisionError, OverflowError, UndefinedError, KeyError, TypeError, InexactError) as error:
            raise Undecided(str(error)) from None
        except ValueError as error:
            if isinstance(error, RefusedError | Undecided):
                raise
            raise Undecided(str(error)) from None  # math domain error

    def _value(self, node: Node) -> Any:
        op, args = node
        if op == "num":
            return self.backend.number(args[0])
        if op == "sym":
            return self.backend.number(self.values[args[0]])
        if op == "const":
            if args[0] == "inf":
                raise Undecided("infinity")
            return getattr(self.backend, args[0])
        if op == "deg":
            return self._value(args[0])
        if op == "add":
            return self._sum([self._value(arg) for arg in args])
        if op == "mul":
            product = self._value(args[0])
            for arg in args[1:]:
                product = product * self._value(arg)
            return product
        if op == "div":
            return self._value(args[0]) / self._value(args[1])
        if op in ("pow", "root"):
            return self._power(op, *args)
        if op == "fn":
            return self._function(args[0], [self._value(arg) for arg in args[1:]])
        raise Undecided(op)

    def _sum(self, terms: list[Any]) -> Any:
        self.scale = max(self.scale, *(abs(term) for term in terms))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _power(self, op: str, base_node: Node, exponent_node: Node) -> Any:
        base = self._value(base_node)
        exponent = rational(exponent_node)
        if op == "root":
            exponent = 1 / exponent if exponent else 1 / self._value(exponent_node)
        if exponent is None:
            exponent = self._value(exponent_node)
        magnitude = abs(base)
        if magnitude and abs(exponent) * abs(math.log(magnitude)) > MAX_LOG:
            raise RefusedError("a power too large to compute")
        if isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return self.backend.power(base, exponent.numerator)
            if exponent.denominator % 2 and not _is_complex(base) and base < 0:
                # Odd roots of negative numbers are real: \sqrt[3]{-8} is -2.
                sign = -1 if exponent.numerator % 2 else 1
                return sign * self.backend.power(-base, self.backend.number(exponent))
            exponent = self.backend.number(exponent)
        return self.backend.power(base, exponent)

    def _function(self, name: str, arguments: list[Any]) -> Any:
        if name.startswith("apply:"):
            keys = tuple(self.backend.key(value) for value in arguments)
            return self.backend.number(opaque(name, (self.values[name], *keys)))
        if name in ("max", "min"):
            return max(arguments) if name == "max" else min(arguments)
        size = abs(arguments[0])
        self.scale = max(self.scale, size)
        if (name == "exp" and size > MAX_LOG) or (name in ("factorial", "binom") and size > MAX_GAMMA):
            raise RefusedError(f"{name} of a number too large to compute")
        if name == "log":
            base = arguments[1] if len(arguments) == 2 else self.backend.number(Fraction(10))
            return self.backend.call("ln", arguments[0]) / self.backend.call("ln", base)
        return self.backend.call(name, *arguments)


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or hasattr(value, "_mpc_")


def is_real(value: Any, tolerance: float) -> bool:
    """Real up to rounding, and finite."""
    size = abs(value)
    if not size < float("inf"):
        return False
    return not _is_complex(value) or abs(value.imag) <= tolerance * max(size, 1e-300)
