"""Sets of real numbers: intervals, unions, differences, finite sets, and inequalities in one unknown.

Two such sets are compared on the cells that all their end points cut the line into: n end points make 2n + 1 cells
(gaps and points), and a set is the collection of the cells that it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from rlhf_e2h.checker.approximate import Evaluator, Floats, Undecided, is_real
from rlhf_e2h.checker.exact import InexactError, UndefinedError, exact
from rlhf_e2h.checker.nodes import INFINITY, Node, children, free_symbols, has, is_scalar, negate, num, subtract
from rlhf_e2h.checker.scalars import Same

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}
_NEAR = 1e-9  # relative; closer end points are asked about exactly


class NotASet(ValueError):  # noqa: N818  a normal outcome: the caller compares otherwise
    """The node is not a set of reals that this module can read."""


@dataclass
class _Line:
    """The end points of both sides in order, equal ones merged."""

    same: Same
    floats: list[float] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def add(self, node: Node) -> None:
        value = _float(node)
        if math.isinf(value):
            return
        for position, other in enumerate(self.floats):
            if abs(value - other) <= _NEAR * max(1.0, abs(value)):
                if self.same(node, self.nodes[position]):
                    return
                raise NotASet("end points too close to order")
        position = sum(other < value for other in self.floats)
        self.floats.insert(position, value)
        self.nodes.insert(position, node)

    def cell(self, node: Node) -> int:
        """Odd cells are the end points; -1 and 2n + 1 stand for the infinities."""
        value = _float(node)
        if math.isinf(value):
            return -1 if value < 0 else 2 * len(self.floats) + 1
        return 2 * min(range(len(self.floats)), key=lambda k: abs(self.floats[k] - value)) + 1

    @property
    def cells(self) -> frozenset[int]:
        return frozenset(range(2 * len(self.floats) + 1))


def same_set(left: Node, right: Node, same: Same) -> bool:
    """Raises NotASet if a side cannot be read, Undecided if its end points need many digits."""
    left, right = as_set(left), as_set(right)
    line = _Line(same)
    for side in (left, right):
        for node in _end_points(side):
            line.add(node)
    return _cells(left, line) == _cells(right, line)


def as_set(node: Node) -> Node:
    """Inequalities turned into intervals, so that only tuple, set, union, inter, minus and reals remain."""
    op, args = node
    if op in ("union", "inter", "minus"):
        return Node(op, (as_set(args[0]), as_set(args[1])))
    if op == "tuple" and len(args) == 4:
        if not all(is_scalar(arg) and not free_symbols(arg) for arg in args[2:]):
            raise NotASet("end points that are no numbers")
        return node
    if op == "reals":
        return node
    if op in ("set", "brace"):
        if not all(is_scalar(arg) and not free_symbols(arg) for arg in args):
            raise NotASet("members that are no numbers")
        return Node("set", args)
    if op == "builder":
        return as_set(args[0])
    if op == "rel":
        return _solve(node)
    if op == "list" and args[0] in ("or", ",", "and", ";"):
        parts = [as_set(arg) for arg in args[1:]]
        joint = "inter" if args[0] == "and" and _chained(args[1:]) else "union"
        folded = parts[0]
        for part in parts[1:]:
            folded = Node(joint, (folded, part))
        return folded
    raise NotASet(op)


def _chained(parts: tuple[Node, ...]) -> bool:
    """`x > 1 and x < 3` holds both; `x < 1 and x > 3`, said of a solution set, means either."""
    bounds = [as_set(part) for part in parts]
    try:
        lows = max(_float(bound.args[2]) for bound in bounds if bound.op == "tuple")
        highs = min(_float(bound.args[3]) for bound in bounds if bound.op == "tuple")
    except ValueError:
        return True
    return lows < highs


def _solve(relation: Node) -> Node:
    operators, members = relation.args[0], relation.args[1:]
    if operators == ("in",):
        return as_set(members[1])
    if any(operator not in ("<", "<=", ">", ">=", "!=") for operator in operators):
        raise NotASet("not an inequality")
    solution: Node | None = None
    for k, operator in enumerate(operators):
        part = _solve_linear(operator, members[k], members[k + 1])
        solution = part if solution is None else Node("inter", (solution, part))
    assert solution is not None
    return solution


def _solve_linear(operator: str, left: Node, right: Node) -> Node:
    """One unknown, standing alone or in a linear expression with rational coefficients."""
    for unknown, bound, sign in ((left, right, operator), (right, left, FLIPPED[operator])):
        alone = unknown.op == "sym" or (unknown.op == "fn" and unknown.args[0].startswith("apply:"))
        if alone and not free_symbols(bound):
            return _ray(sign, bound)
    names = free_symbols(left) | free_symbols(right)
    if len(names) != 1 or has(left, "fn", "root") or has(right, "fn", "root"):
        raise NotASet("not one unknown, or not a line: |x - 5| looks like one up to 5")
    (name,) = names
    try:
        difference = subtract(left, right)
        at = {value: exact(difference, {name: Fraction(value)}) for value in (-7, -1, 0, 1, 2, 5)}
    except (InexactError, UndefinedError):
        raise NotASet("not linear") from None
    slope = at[1] - at[0]
    if slope == 0 or any(value != at[0] + x * slope for x, value in at.items()):
        raise NotASet("not linear")
    return _ray(operator if slope > 0 else FLIPPED[operator], num(-at[0] / slope))


def _ray(operator: str, bound: Node) -> Node:
    low, high = negate(INFINITY), INFINITY
    if operator == "!=":
        return Node("minus", (Node("reals", ()), Node("set", (bound,))))
    if operator in ("<", "<="):
        return Node("tuple", ("(", "]" if operator == "<=" else ")", low, bound))
    return Node("tuple", ("[" if operator == ">=" else "(", ")", bound, high))


def _end_points(node: Node) -> list[Node]:
    if node.op == "tuple":
        return list(node.args[2:])
    if node.op == "set":
        return list(node.args)
    return [point for child in children(node) for point in _end_points(child)]


def _cells(node: Node, line: _Line) -> frozenset[int]:
    op, args = node
    if op == "reals":
        return line.cells
    if op == "set":
        return frozenset(line.cell(arg) for arg in args)
    if op == "tuple":
        low, high = line.cell(args[2]), line.cell(args[3])
        if low > high:
            raise NotASet("an interval whose ends are in the wrong order")
        cells = set(range(low + 1, high))
        if args[0] == "[":
            cells.add(low)
        if args[1] == "]":
            cells.add(high)
        return frozenset(cells) & line.cells
    first, second = _cells(args[0], line), _cells(args[1], line)
    return {"union": first | second, "inter": first & second, "minus": first - second}[op]


def _float(node: Node) -> float:
    sign = 1.0
    while node.op == "mul" and len(node.args) == 2 and node.args[0].op == "num" and node.args[0].args[0] < 0:
        sign, node = -sign, node.args[1]
    if node == INFINITY:
        return sign * math.inf
    try:
        value = Evaluator(Floats(), {}).value(node)
    except Undecided:
        raise NotASet("an end point without a value") from None
    if not is_real(value, 1e-9):
        raise NotASet("an end point that is not real")
    return sign * float(complex(value).real) if sign < 0 else float(complex(value).real)
