"""Names in front of values: `x = 5`, `f(x) = x^2`, `\\angle ABC = 30`, `(x,y) = (1,2)`, `x \\in S`, and chains."""

from __future__ import annotations

from typing import NamedTuple

from rlhf_e2h.checker.approximate import Undecided
from rlhf_e2h.checker.nodes import Node, free_symbols, is_scalar
from rlhf_e2h.checker.scalars import Same
from rlhf_e2h.checker.vocabulary import TRIGONOMETRIC


class Named(NamedTuple):
    """A value with the name that stood before it; `contradictory` if the chain equates two different numbers."""

    name: Node | None
    value: Node
    contradictory: bool = False


def strip_name(node: Node, same: Same | None) -> Named:
    """Split `name = value`; other relations come back whole, without a name.

    A chain `x = a = b \\approx c` has the value b. A chain of numbers (`10^3 = 1000`) has the last one's value if the
    members agree. With `same` None nothing is checked.
    """
    if node.op != "rel":
        return Named(None, node)
    operators, members = node.args[0], list(node.args[1:])
    if operators == ("in",):
        return Named(members[0], members[1]) if is_name(members[0]) else Named(None, node)
    if any(operator not in ("=", "~") for operator in operators):
        return Named(None, node)
    # A tail `\approx ...` is a rounding of what was said before; `x \approx 11` alone gives 11.
    operators = list(operators)
    while operators and operators[-1] == "~" and len(members) > 2:
        operators.pop()
        members.pop()
    if len(members) == 2 and operators == ["~"] and not is_name(members[0]):
        return Named(None, members[0])
    if is_name(members[0]):
        return Named(members[0], members[-1], _literals_differ(members[1:]))
    if len(members) == 2 and is_name(members[1]) and not free_symbols(members[0]):
        return Named(members[1], members[0])
    if not any(free_symbols(member) for member in members):
        return Named(None, members[-1], same is not None and not _agree(members, same))
    return Named(None, Node("rel", (tuple(operators), *members)))


def is_name(node: Node) -> bool:
    """A symbol, `f(x)`, `\\gcd(a,b)`, letters in capitals (`AB`), words, or a tuple or ratio of those."""
    if node.op == "sym" or node.op == "text":
        return True
    if node.op == "fn":
        return _is_function_name(node)
    if node.op == "mul":
        first, *rest = node.args
        if first.op == "div" and is_name(first):
            return True  # d/dx of something
        if first.op == "sym" and not all(is_scalar(part) for part in rest):
            return True  # P(A \\cap B)
        if first == Node("sym", ("m",)) and rest[0].op == "sym" and rest[0].args[0].startswith("angle"):
            return True
        return all(part.op == "sym" and part.args[0].removeprefix("set ")[:1].isupper() for part in node.args)
    if node.op == "div":
        return all(_is_differential(arg) for arg in node.args)
    if node.op == "tuple":
        return all(is_name(arg) for arg in node.args[2:])
    return node.op == "ratio" and all(is_name(arg) for arg in node.args)


def _is_function_name(node: Node) -> bool:
    """`f(2)`, `\\gcd(a,b)`, `|AB|`, `\\cos\\theta`; `|x| = 5` and `\\sin x = 1` are equations for x."""
    name, symbols = node.args[0], free_symbols(node)
    if name in ("gcd", "lcm", "max", "min", "det") or name.startswith("apply:"):
        return bool(symbols)
    if name in ("abs", *TRIGONOMETRIC):
        return (
            bool(symbols)
            and all(len(s) > 1 or s.isupper() or s in "uvw" for s in symbols)
            and node.args[1].op in ("sym", "mul")
        )
    return False


def _is_differential(node: Node) -> bool:
    first = node.args[0] if node.op == "mul" else node
    return first == Node("sym", ("d",))


def chain_end(node: Node, same: Same) -> Node | None:
    """The last side of `n(n+1)/2 = 10 \\cdot 11/2 = 55`, or of an identity; None for an equation that says more."""
    operators, members = node.args[0], node.args[1:]
    if node.op != "rel" or set(operators) != {"="} or not all(is_scalar(member) for member in members):
        return None
    if len(members) > 2 and not free_symbols(members[-1]):
        return None if _literals_differ(list(members[1:])) else members[-1]
    return members[-1] if all(same(member, members[-1]) for member in members[:-1]) else None


def same_name(left: Node | None, right: Node | None) -> bool:
    """The same name, or one in words beside a symbol: `\\text{height} = 5` and `h = 5`."""
    if left is None or right is None:
        return left is right
    return left == right or [left.op, right.op].count("text") == 1


def _literals_differ(members: list[Node]) -> bool:
    """`x = 13 = 12`: another member is a number as plain as the last, and not the same."""
    last = members[-1]
    return last.op == "num" and any(m.op == "num" and m.args[0] != last.args[0] for m in members[:-1])


def _agree(members: list[Node], same: Same) -> bool:
    last = members[-1]
    for member in members[:-1]:
        if not (is_scalar(member) and is_scalar(last)):
            continue
        try:
            if not same(member, last) and not _is_percentage(member, last):
                return False
        except Undecided:
            raise Undecided("a chain of numbers") from None
    return True


def _is_percentage(value: Node, percentage: Node) -> bool:
    """`0.56 = 56\\%`: the sign is gone by now, the factor tells."""
    return value.op == percentage.op == "num" and value.args[0] * 100 == percentage.args[0]
