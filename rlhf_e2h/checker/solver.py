"""sympy, from our own tree only (never from text): inequalities solved, equations cleared of denominators.

Runs in workers. The tree has passed the limits of the grammar; what still takes long ends with the worker's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy

from rlhf_e2h.checker.exact import InexactError, UndefinedError, exact
from rlhf_e2h.checker.nodes import (
    EULER,
    IMAGINARY,
    INFINITY,
    PI,
    Node,
    RefusedError,
    free_symbols,
    negate,
    num,
    rebuild,
    subtract,
)

MAX_DEGREE = 30
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "exp": sympy.exp, "abs": sympy.Abs, "floor": sympy.floor,
    "ceil": sympy.ceiling, "max": sympy.Max, "min": sympy.Min, "sgn": sympy.sign,
}  # fmt: skip
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "inf": sympy.oo}
_INEQUALITIES = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "!=": sympy.Ne}


class Unsolved(ValueError):  # noqa: N818  a normal outcome
    """sympy has no answer of a form that can be compared."""


def solve_inequalities(node: Node) -> Node:
    """The same answer with each inequality in one unknown replaced by its solution set."""
    if node.op == "rel":
        operators, members = node.args[0], node.args[1:]
        if all(operator in _INEQUALITIES for operator in operators) and len(free_symbols(node)) == 1:
            links = [(op, members[k], members[k + 1]) for k, op in enumerate(operators)]
            solutions = [_solve(*link) for link in links]
            whole = solutions[0]
            for solution in solutions[1:]:
                whole = whole.intersect(solution)
            return _set_node(whole)
        return node
    return rebuild(node, solve_inequalities)


def same_equation(left: Node, right: Node) -> bool:
    """Two equations with the same zeros off their poles, as far as numerators and a constant factor show."""
    numerators = []
    for relation in (left, right):
        if relation.op != "rel" or relation.args[0] != ("=",):
            return False
        difference = to_sympy(subtract(relation.args[1], relation.args[2]))
        numerators.append(sympy.fraction(sympy.together(difference))[0])
    if numerators[0] == 0 or numerators[1] == 0:
        return False
    ratio = sympy.cancel(numerators[0] / numerators[1])
    return bool(ratio.is_number and ratio != 0)


def _solve(operator: str, left: Node, right: Node) -> Any:
    expression = sympy.simplify(to_sympy(subtract(left, right)))
    (name,) = sorted(free_symbols(left) | free_symbols(right))
    relation = _INEQUALITIES[operator](expression, 0)
    if relation in (sympy.true, sympy.false):
        return sympy.S.Reals if relation == sympy.true else sympy.S.EmptySet
    try:
        if operator == "!=":
            return sympy.S.Reals - sympy.solveset(expression, sympy.Symbol(name, real=True), sympy.S.Reals)
        return sympy.solve_univariate_inequality(relation, sympy.Symbol(name, real=True), relational=False)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise Unsolved(str(error)) from None


def to_sympy(node: Node) -> Any:
    """Raises Unsolved for what has no counterpart, RefusedError for exponents that expand too far."""
    op, args = node
    if op == "num":
        return sympy.Rational(args[0].numerator, args[0].denominator)
    if op == "sym":
        return sympy.Symbol(args[0], real=True)
    if op == "const":
        return _CONSTANTS[args[0]]
    if op == "deg":
        return to_sympy(args[0])
    if op in ("add", "mul"):
        parts = [to_sympy(arg) for arg in args]
        return sympy.Add(*parts) if op == "add" else sympy.Mul(*parts)
    if op == "div":
        return to_sympy(args[0]) / to_sympy(args[1])
    if op == "root":
        return sympy.root(to_sympy(args[0]), to_sympy(args[1]))
    if op == "pow":
        return to_sympy(args[0]) ** to_sympy(_checked_exponent(args[1]))
    if op == "fn" and args[0] in _FUNCTIONS:
        return _FUNCTIONS[args[0]](*(to_sympy(arg) for arg in args[1:]))
    if op == "fn" and args[0] == "log":
        return sympy.log(to_sympy(args[1]), to_sympy(args[2]) if len(args) > 2 else 10)
    raise Unsolved(op)


def _checked_exponent(node: Node) -> Node:
    if not free_symbols(node):
        try:
            if abs(exact(node, {})) > MAX_DEGREE:
                raise RefusedError(f"an exponent above {MAX_DEGREE} for the solver")
        except (InexactError, UndefinedError):
            pass
    return node


def _set_node(solution: Any) -> Node:
    if solution is sympy.S.EmptySet:
        return Node("set", ())
    if solution == sympy.S.Reals:
        return Node("reals", ())
    if isinstance(solution, sympy.Interval):
        brackets = ("(" if solution.left_open else "[", ")" if solution.right_open else "]")
        return Node("tuple", (*brackets, _number_node(solution.start), _number_node(solution.end)))
    if isinstance(solution, sympy.FiniteSet):
        return Node("set", tuple(_number_node(member) for member in solution.args))
    if isinstance(solution, sympy.Union | sympy.Intersection | sympy.Complement):
        op = {"Union": "union", "Intersection": "inter", "Complement": "minus"}[type(solution).__name__]
        node, *rest = (_set_node(part) for part in solution.args)
        for part in rest:
            node = Node(op, (node, part))
        return node
    raise Unsolved(type(solution).__name__)


def _number_node(value: Any) -> Node:
    if value == sympy.oo or value == -sympy.oo:
        return INFINITY if value == sympy.oo else negate(INFINITY)
    if value.is_Rational:
        return num(Fraction(int(value.p), int(value.q)))
    for constant, node in ((sympy.pi, PI), (sympy.E, EULER), (sympy.I, IMAGINARY)):
        if value == constant:
            return node
    if value.is_Add or value.is_Mul:
        return Node("add" if value.is_Add else "mul", tuple(_number_node(arg) for arg in value.args))
    if value.is_Pow:
        return Node("pow", tuple(_number_node(arg) for arg in value.args))
    if isinstance(value, sympy.log):
        return Node("fn", ("ln", _number_node(value.args[0])))
    raise Unsolved(type(value).__name__)
