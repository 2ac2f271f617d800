"""Values whose unit or modulus counts: cents and dollars, minutes and hours, residues."""

from __future__ import annotations

from rlhf_e2h.checker.names import strip_name
from rlhf_e2h.checker.nodes import Node, is_scalar, num
from rlhf_e2h.checker.scalars import Same
from rlhf_e2h.checker.vocabulary import MEASURES


def same_measure(left: Node, right: Node, same: Same) -> bool | None:
    """The verdict where both sides name a modulus, or units that are measured; None where the bare values decide."""
    if left.op != right.op or left.op not in ("unit", "mod"):
        return None
    a, b = (strip_name(side.args[0], None).value for side in (left, right))
    if not (is_scalar(a) and is_scalar(b)):
        return None
    if left.op == "mod":
        modulus = left.args[1]
        residues = (Node("fn", ("mod", value, modulus)) for value in (a, b))
        return same(modulus, right.args[1]) and same(*residues)
    if not {left.args[1], right.args[1]} <= MEASURES.keys():
        return None
    (kind, scale), (other_kind, other_scale) = MEASURES[left.args[1]], MEASURES[right.args[1]]
    return kind == other_kind and same(Node("mul", (num(scale), a)), Node("mul", (num(other_scale), b)))
