"""Answers written out: units off, ± as its values, groups of named values as points."""

from __future__ import annotations

from itertools import product

from rlhf_e2h.checker.names import Named, strip_name
from rlhf_e2h.checker.nodes import Node, ParseError, children, has, negate, rebuild

MAX_SIGNS = 3  # ± in one item; each doubles the number of values


def items_of(node: Node) -> list[Node]:
    return list(node.args[1:]) if node.op == "list" else [node]


def distinct(items: list[Named]) -> bool:
    names = [item.name for item in items]
    return None not in names and len(set(names)) == len(names) > 1


def gathered(node: Node) -> Node:
    """`p=5,q=2; p=7,q=2`: each group of named values is one point, since every group has the same names."""
    if node.op != "list":
        return node
    if node.args[0] == ";":
        groups = [[strip_name(item, None) for item in items_of(part)] for part in node.args[1:]]
    else:
        flat = [strip_name(item, None) for item in node.args[1:]]
        size = next((k for k in range(2, len(flat)) if flat[k].name == flat[0].name), len(flat))
        if len(flat) % size or size == len(flat):
            return node
        groups = [flat[k : k + size] for k in range(0, len(flat), size)]
    names = [[item.name for item in group] for group in groups]
    if not all(distinct(group) for group in groups) or any(other != names[0] for other in names):
        return node
    return Node("list", (";", *(Node("tuple", ("(", ")", *(item.value for item in group))) for group in groups)))


def spread(node: Node) -> Node:
    """Units off, ± written out: `\\pm 3` is the list 3, -3, and inside a list or set its values join the others."""
    node = _strip_units(node)
    if not has(node, "pm", "mp"):
        return node
    if node.op in ("list", "set", "brace"):
        head = node.args[:1] if node.op == "list" else ()
        items: list[Node] = []
        for arg in node.args[len(head) :]:
            inner = spread(arg)
            items += inner.args[1:] if inner.op == "list" else (inner,)
        return Node(node.op, (*head, *items))
    return Node("list", (",", *_signs(node)))


def _signs(node: Node) -> list[Node]:
    count = sum(1 for _ in _find_signs(node))
    if count > MAX_SIGNS:
        raise ParseError("too many ± signs")
    linked = has(node, "mp")
    choices = [(1,) * count, (-1,) * count] if linked else list(product((1, -1), repeat=count))
    return [_choose(node, list(choice)) for choice in choices]


def _find_signs(node: Node) -> list[Node]:
    return ([node] if node.op in ("pm", "mp") else []) + [s for child in children(node) for s in _find_signs(child)]


def _choose(node: Node, signs: list[int]) -> Node:
    if node.op in ("pm", "mp"):
        sign = signs.pop(0) * (1 if node.op == "pm" else -1)
        left, right = (_choose(arg, signs) for arg in node.args)
        return Node("add", (left, right if sign > 0 else negate(right)))
    return rebuild(node, lambda child: _choose(child, signs))


def _strip_units(node: Node) -> Node:
    if node.op in ("unit", "mod"):
        return _strip_units(node.args[0])
    return rebuild(node, _strip_units) if has(node, "unit", "mod") else node
