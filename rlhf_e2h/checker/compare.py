"""Are two parsed answers the same? Structure here; scalars, sets of reals and relations in their own modules.

Every function takes `same`, the scalar test of the process it runs in, which may raise Undecided.
"""

from __future__ import annotations

from rlhf_e2h.checker.approximate import Undecided
from rlhf_e2h.checker.measures import same_measure
from rlhf_e2h.checker.names import Named, chain_end, same_name, strip_name
from rlhf_e2h.checker.nodes import (
    ZERO,
    Node,
    ParseError,
    children,
    free_symbols,
    integer,
    is_scalar,
)
from rlhf_e2h.checker.realsets import NotASet, as_set, same_set
from rlhf_e2h.checker.relations import same_relation
from rlhf_e2h.checker.scalars import Same
from rlhf_e2h.checker.spread import distinct, gathered, items_of, spread

MAX_ITEMS = 200


def same_answer(left: Node, right: Node, same: Same) -> bool:
    """Compare two answers, each an item or a list of items.

    Raises:
        Undecided: `same` cannot tell, or the structure needs a solver.
        RefusedError: something is too large to compute.
    """
    measured = same_measure(left, right, same)
    if measured is not None:
        return measured
    left, right = (spread(gathered(side)) for side in (left, right))
    items_left, items_right = items_of(left), items_of(right)
    if max(len(items_left), len(items_right)) > MAX_ITEMS:
        raise ParseError("too many items")
    if len(items_left) == len(items_right) == 1:
        return same_item(items_left[0], items_right[0], same)
    if _same_list(left, right, items_left, items_right, same):
        return True
    return _as_sets(left, right, same) is True


def _same_list(left: Node, right: Node, a: list[Node], b: list[Node], same: Same) -> bool:
    # A list against one set, or against the tuple that its named values fill: `x=1, y=2` and `(1,2)`.
    for whole, items, other in ((left, b, right), (right, a, left)):
        if whole.op == "rel" and whole.args[0] == ("in",):
            whole = whole.args[2]
        if whole.op in ("set", "brace") and len(items) > 1:
            return len(whole.args) == len(items) and _matching(list(whole.args), _values(items), same)
        named = [strip_name(item, same) for item in items]
        if whole.op == "tuple" and other.op == "list" and distinct(named):
            return _in_order(list(whole.args[2:]), [item.value for item in named], same)
        if whole.op == "rel" and other.op == "list" and (unpacked := _unpacked(whole)) is not None:
            return _same_list(Node("list", (",", *unpacked)), other, unpacked, items, same)
    if len(a) != len(b):
        return False
    named_a, named_b = ([strip_name(item, same) for item in side] for side in (a, b))
    if distinct(named_a) and distinct(named_b):
        return _matching(a, b, same) or _by_position_of_names(named_a, named_b, same)
    if distinct(named_a) or distinct(named_b):
        return _in_order([item.value for item in named_a], [item.value for item in named_b], same)
    return _matching(a, b, same)


def _values(items: list[Node]) -> list[Node]:
    return [strip_name(item, None).value for item in items]


def _by_position_of_names(a: list[Named], b: list[Named], same: Same) -> bool:
    """Same names in any order with the same values; other names do not match."""
    for item in a:
        partners = [other for other in b if same_name(item.name, other.name)]
        if len(partners) != 1 or not same_item(item.value, partners[0].value, same):
            return False
    return True


def _unpacked(relation: Node) -> list[Node] | None:
    """`(x,y) = (1,2)` as `x=1, y=2`."""
    operators, *members = relation.args
    if operators != ("=",) or any(member.op != "tuple" for member in members):
        return None
    names, values = members[0].args[2:], members[1].args[2:]
    if len(names) != len(values) or any(name.op != "sym" for name in names):
        return None
    return [Node("rel", (("=",), name, value)) for name, value in zip(names, values, strict=True)]


def _in_order(a: list[Node], b: list[Node], same: Same) -> bool:
    return len(a) == len(b) and all(same_item(x, y, same) for x, y in zip(a, b, strict=True))


def _matching(a: list[Node], b: list[Node], same: Same) -> bool:
    """The same members in any order. Equality is transitive, so the first partner found is as good as any."""
    if len(a) != len(b):
        return False
    rest = list(b)
    undecided = False
    for item in a:
        for position, other in enumerate(rest):
            try:
                if same_item(item, other, same):
                    del rest[position]
                    break
            except Undecided:
                undecided = True
        else:
            if undecided:
                raise Undecided("members of a list")
            return False
    return True


def _as_sets(left: Node, right: Node, same: Same) -> bool | None:
    try:
        return same_set(left, right, same)
    except NotASet:
        return None


def same_item(left: Node, right: Node, same: Same) -> bool:
    """Two single items; a name in front (`x = 5`, `x \\in S`) counts only against another name."""
    if left == right:
        return True
    a, b = strip_name(left, same), strip_name(right, same)
    if a.contradictory or b.contradictory:
        return False
    if a.name is not None and b.name is not None and same_name(a.name, b.name):
        return same_value(a.value, b.value, same)
    if left.op == right.op == "rel":
        whole = [_whole(side, named) for side, named in ((left, a), (right, b))]
        if all(side.op == "rel" for side in whole):
            return _two_relations(whole[0], whole[1], same)
    for side, other in ((a, b.value), (b, a.value)):
        if side.name is None and side.value.op == "rel" and is_scalar(other):
            end = chain_end(side.value, same)
            if end is not None:
                return same(end, other)
    return same_value(a.value, b.value, same)


def _whole(item: Node, named: Named) -> Node:
    """The relation without tail: `y = 2x` of `y = 2x \\approx ...`; a membership stays as it is."""
    if named.name is None or item.args[0] == ("in",):
        return named.value if named.name is None else item
    return Node("rel", (("=",), named.name, named.value))


def _two_relations(left: Node, right: Node, same: Same) -> bool:
    if same_relation(left, right, same):
        return True
    if free_symbols(left) != free_symbols(right):
        return False
    operators = set(left.args[0]) | set(right.args[0])
    if operators == {"="}:
        if _has_poles(left) or _has_poles(right):
            raise Undecided("equations with denominators")
        return False
    verdict = _as_sets(left, right, same)
    if verdict is None and len(free_symbols(left)) == 1 and "=" not in operators:
        raise Undecided("inequalities for the solver")
    return verdict is True


def _has_poles(node: Node) -> bool:
    """A symbol below a fraction line or under a power that is not a positive integer: equations may differ by it."""
    if node.op in ("div", "pow", "root") and free_symbols(node.args[0] if node.op == "root" else node.args[1]):
        return True
    if node.op == "pow" and free_symbols(node.args[0]) and integer(node.args[1]) is None:
        return True
    return any(_has_poles(child) for child in children(node))


def same_value(left: Node, right: Node, same: Same) -> bool:
    """Two values without names."""
    if left == right:
        return True
    left, right = spread(left), spread(right)
    for single, other in ((left, right), (right, left)):
        if single.op == "set" and len(single.args) == 1 and is_scalar(other):
            return is_scalar(single.args[0]) and same(single.args[0], other)
    if left.op == "list" or right.op == "list":
        return left.op == right.op and _matching(items_of(left), items_of(right), same)
    kinds = {left.op, right.op}
    if is_scalar(left) and is_scalar(right):
        return same(left, right)
    if "text" in kinds:
        return _same_words(left, right)
    if kinds <= {"base"} or kinds <= {"ratio"}:
        return _same_ratio(left, right, same) if left.op == "ratio" else left.args == right.args
    if kinds <= {"matrix", "add", "mul", "det", "num", "div", "tuple"} and "matrix" in kinds | _inner(left) | _inner(
        right
    ):
        from rlhf_e2h.checker.matrices import same_matrix

        return same_matrix(left, right, same)
    if "det" in _inner(left) | _inner(right) | kinds:
        return same(left, right)
    if kinds <= {"set", "brace"}:
        return _same_members(left, right, same)
    if kinds <= {"tuple", "brace"}:
        verdict = _same_tuple(left, right, same)
        if verdict or kinds != {"tuple"}:
            return verdict
    if left.op == right.op == "builder" and _two_relations_in(left, right, same):
        return True
    return _same_real_sets(left, right, same)


def _two_relations_in(left: Node, right: Node, same: Same) -> bool:
    return left.args[0].op == right.args[0].op == "rel" and same_relation(left.args[0], right.args[0], same)


def _inner(node: Node) -> set[str]:
    return {child.op for child in children(node)}


def _same_members(left: Node, right: Node, same: Same) -> bool:
    """Sets: a member that is named twice counts once."""
    if len(left.args) == len(right.args):
        return _matching(list(left.args), list(right.args), same)
    return _within(left, right, same) and _within(right, left, same)


def _within(left: Node, right: Node, same: Same) -> bool:
    return all(any(same_item(item, other, same) for other in right.args) for item in left.args)


def _same_tuple(left: Node, right: Node, same: Same) -> bool:
    """Point, ordered list or interval: brackets must agree (braces without backslashes stand for round ones)."""
    brackets = [node.args[:2] if node.op == "tuple" else ("(", ")") for node in (left, right)]
    items = [list(node.args[2:] if node.op == "tuple" else node.args) for node in (left, right)]
    return brackets[0] == brackets[1] and _in_order(items[0], items[1], same)


def _same_real_sets(left: Node, right: Node, same: Same) -> bool:
    set_like = frozenset(("tuple", "set", "brace", "union", "inter", "minus", "reals", "builder", "rel"))
    if left.op not in set_like or right.op not in set_like:
        return False
    if {left.op, right.op} == {"tuple", "set"} or {left.op, right.op} == {"tuple"}:
        return False  # `(1,2,3)` is not a set of three; two intervals were compared as tuples
    try:
        return same_set(left, right, same)
    except NotASet:
        pass
    readable = [_reads_as_set(side) for side in (left, right)]
    if ("rel" in (left.op, right.op) and any(readable)) or {left.op, right.op} & {"builder"}:
        raise Undecided("an inequality for the solver")
    return False


def _reads_as_set(node: Node) -> bool:
    try:
        as_set(node)
    except NotASet:
        return False
    return True


def _same_words(left: Node, right: Node) -> bool:
    """Words against words, and one letter against the symbol of that letter: `\\text{(C)}` and C."""
    spoken = [node.args[0] if node.op == "text" else _letter(node) for node in (left, right)]
    return None not in spoken and spoken[0] == spoken[1]


def _letter(node: Node) -> str | None:
    if node.op in ("sym", "const") and len(node.args[0]) == 1:
        return str(node.args[0]).lower()
    if node.op == "mul" and all(part.op in ("sym", "const") for part in node.args):
        return "".join(str(part.args[0]) for part in node.args).lower()
    return None


def _same_ratio(left: Node, right: Node, same: Same) -> bool:
    """The same parts, or the same proportion unless it may be a time of day (`12:30`)."""
    a, b = list(left.args), list(right.args)
    if _in_order(a, b, same):
        return True
    if len(a) != len(b) or any(_is_clock(side) for side in (a, b)):
        return False
    if not all(is_scalar(x) for x in a + b) or ZERO in a + b:
        return False
    return all(same(Node("mul", (x, b[0])), Node("mul", (y, a[0]))) for x, y in zip(a[1:], b[1:], strict=True))


def _is_clock(parts: list[Node]) -> bool:
    if parts[-1].op == "text":
        return True
    return len(parts) == 2 and all(p.op == "num" for p in parts) and 10 <= parts[1].args[0] < 60 > parts[0].args[0]
