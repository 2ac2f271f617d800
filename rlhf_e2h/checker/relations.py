"""Equations and inequalities that say the same: one difference is a constant multiple of the other."""

from __future__ import annotations

from rlhf_e2h.checker.approximate import Undecided
from rlhf_e2h.checker.nodes import Node, is_scalar, subtract
from rlhf_e2h.checker.realsets import FLIPPED
from rlhf_e2h.checker.scalars import Same, proportional


def same_relation(left: Node, right: Node, same: Same) -> bool:
    """Both are relations; chains compare link by link, in either direction."""
    a, b = _links(left), _links(right)
    if a is None or b is None:
        return left == right
    if len(a) != len(b):
        return False
    return _match(a, b, same)


Link = tuple[str, Node, Node]


def _links(relation: Node) -> list[Link] | None:
    """Binary links with `>` turned into `<`, so that a chain read from right to left gives the same links."""
    operators, members = relation.args[0], relation.args[1:]
    links: list[Link] = []
    for k, operator in enumerate(operators):
        x, y = members[k], members[k + 1]
        if operator not in FLIPPED or not is_scalar(x) or not is_scalar(y):
            return None
        links.append((FLIPPED[operator], y, x) if operator in (">", ">=") else (operator, x, y))
    return links


def _match(a: list[Link], b: list[Link], same: Same) -> bool:
    rest = list(b)
    for link in a:
        partner = next((other for other in rest if _same_link(link, other, same)), None)
        if partner is None:
            return False
        rest.remove(partner)
    return True


def _same_link(a: Link, b: Link, same: Same) -> bool:
    if a[0] != b[0]:
        return False
    try:
        sign = proportional(subtract(a[1], a[2]), subtract(b[1], b[2]), same)
    except Undecided:
        if all(same(x, y) for x, y in zip(a[1:], b[1:], strict=True)):
            return True
        raise
    return sign > 0 if a[0] in ("<", "<=") else sign != 0
