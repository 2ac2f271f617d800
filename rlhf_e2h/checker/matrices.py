"""Matrices: component by component, after sums and products have been carried out."""

from __future__ import annotations

from rlhf_e2h.checker.nodes import Node, is_scalar
from rlhf_e2h.checker.scalars import Same

Rows = tuple[tuple[Node, ...], ...]


def same_matrix(left: Node, right: Node, same: Same) -> bool:
    a, b = rows(left), rows(right)
    if a is None or b is None or len(a) != len(b) or len(a[0]) != len(b[0]):
        return False
    return all(same(x, y) for row_a, row_b in zip(a, b, strict=True) for x, y in zip(row_a, row_b, strict=True))


def rows(node: Node) -> Rows | None:
    """The components of a matrix expression; None if it is none (or a shape does not fit)."""
    op, args = node
    if op == "matrix":
        return args if all(is_scalar(cell) for row in args for cell in row) else None
    if op == "tuple" and args[0] == "[" and all(arg.op == "tuple" and arg.args[0] == "[" for arg in args[2:]):
        return rows(Node("matrix", tuple(arg.args[2:] for arg in args[2:])))  # [[1,2],[3,4]]
    if op == "add":
        terms = [rows(arg) for arg in args]
        if any(t is None or (len(t), len(t[0])) != (len(terms[0] or ()), len((terms[0] or ((),))[0])) for t in terms):
            return None
        grids = [term for term in terms if term is not None]
        return tuple(
            tuple(Node("add", tuple(grid[i][j] for grid in grids)) for j in range(len(grids[0][0])))
            for i in range(len(grids[0]))
        )
    if op == "div" and is_scalar(args[1]):
        above = rows(args[0])
        return above and tuple(tuple(Node("div", (cell, args[1])) for cell in row) for row in above)
    return _product(args) if op == "mul" else None


def _product(factors: tuple[Node, ...]) -> Rows | None:
    scalar: list[Node] = []
    result: Rows | None = None
    for factor in factors:
        if is_scalar(factor):
            scalar.append(factor)
            continue
        grid = rows(factor)
        if grid is None or (result is not None and len(result[0]) != len(grid)):
            return None
        result = grid if result is None else _times(result, grid)
    if result is None or not scalar:
        return result
    return tuple(tuple(Node("mul", (*scalar, cell)) for cell in row) for row in result)


def _times(a: Rows, b: Rows) -> Rows:
    return tuple(
        tuple(Node("add", tuple(Node("mul", (row[k], b[k][j])) for k in range(len(b)))) for j in range(len(b[0])))
        for row in a
    )
