"""The expression tree that the parser builds and every comparison reads.

| op | args |
|---|---|
| num | Fraction, significant digits if written as a decimal else None |
| sym | name (one letter with subscripts, a Greek name, an accented or `f'` name) |
| const | "pi", "e", "i", "inf" |
| add, mul | operands; `a-b` is add(a, mul(-1, b)) |
| pow, div | two operands |
| root | radicand, index |
| pm | two operands, `a ± b` (first is 0 for a leading sign); mp the same for `∓` |
| fn | name, arguments... (known functions; "apply:f" for `f(x)` of an unknown f) |
| deg | an angle in degrees |
| tuple | opening bracket, closing bracket, items... (an open interval and a point look alike) |
| set, brace | items... (`\\{1,2\\}`; `{1,2}` without backslashes, which may mean a tuple) |
| list | separator "," or ";" or "or" or "and", items... (top level) |
| union, inter, minus | two sets |
| reals | -: the real line |
| rel | operators (tuple of "=", "<", "<=", ">", ">=", "!=", "~", "in"), members... |
| mod | value or named value, modulus |
| builder | relation or list of relations from `\\{x : ...\\}` |
| matrix | rows..., each a tuple of nodes; det the same between bars |
| ratio | items... (`3:2`, `12:30`) |
| base | digits, base |
| text | words in lower case |
| unit | value, unit name (removed before comparison) |
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple


class Node(NamedTuple):
    op: str
    args: tuple[Any, ...]


class ParseError(ValueError):
    """The text is not in the grammar."""


class RefusedError(ValueError):
    """The text is too long, too deep, or its value too large to compute."""


def num(value: int | Fraction, digits: int | None = None) -> Node:
    return Node("num", (Fraction(value), digits))


ZERO, ONE, MINUS_ONE = num(0), num(1), num(-1)
PI, EULER, IMAGINARY, INFINITY = (Node("const", (name,)) for name in ("pi", "e", "i", "inf"))

SCALAR_OPS = frozenset(("num", "sym", "const", "add", "mul", "pow", "div", "root", "pm", "mp", "fn", "deg"))


def negate(node: Node) -> Node:
    if node.op == "num":
        return Node("num", (-node.args[0], node.args[1]))
    return Node("mul", (MINUS_ONE, node))


def subtract(left: Node, right: Node) -> Node:
    return left if right == ZERO else Node("add", (left, negate(right)))


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in children(node):
        yield from walk(child)


def children(node: Node) -> Iterator[Node]:
    for arg in node.args:
        if isinstance(arg, Node):
            yield arg
        elif isinstance(arg, tuple):
            yield from (item for item in arg if isinstance(item, Node))


def rebuild(node: Node, change: Any) -> Node:
    """The same node with `change` applied to each child."""
    args = tuple(
        change(arg)
        if isinstance(arg, Node)
        else tuple(change(item) if isinstance(item, Node) else item for item in arg)
        if isinstance(arg, tuple)
        else arg
        for arg in node.args
    )
    return Node(node.op, args)


def is_scalar(node: Node) -> bool:
    return node.op in SCALAR_OPS and all(is_scalar(child) for child in children(node))


def free_symbols(node: Node) -> frozenset[str]:
    """Names of symbols and unknown functions."""
    names = set()
    for part in walk(node):
        if part.op == "sym" or (part.op == "fn" and part.args[0].startswith("apply:")):
            names.add(part.args[0])
    return frozenset(names)


def has(node: Node, *ops: str) -> bool:
    return any(part.op in ops for part in walk(node))


def integer(node: Node) -> int | None:
    if node.op == "num" and node.args[0].denominator == 1:
        return int(Fraction(node.args[0]))
    return None
