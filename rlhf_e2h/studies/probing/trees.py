"""Labelled solutions of one problem as a tree of steps, so that a step which many share is read once.

People label several continuations of the same steps (PRM800K), samplers write several solutions of one problem. Read
one by one, most tokens would be the same text again. Pure: no model in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Row = Mapping[str, Any]
STEPS, OUTCOMES = "steps", "outcomes"


@dataclass(frozen=True)
class Label:
    """What is said about one node: a step ("steps") or the solution that ends in it ("outcomes")."""

    kind: str
    value: int  # 1 right, 0 wrong
    rating: int | None = None  # of a person: 1, 0 (neutral), -1


@dataclass
class Tree:
    """Steps of all solutions of one problem; the parent of a first step is -1. Parents come before their children."""

    problem: str
    steps: list[str] = field(default_factory=list)  # (N,)
    parents: list[int] = field(default_factory=list)  # (N,)
    labels: list[list[Label]] = field(default_factory=list)  # (N,), none, one, or contradicting ones of each node
    _place: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, steps: Sequence[str]) -> list[int]:
        """The nodes of a solution, new ones where it leaves the others."""
        nodes, node = [], -1
        for step in steps:
            if (node, step) not in self._place:
                self._place[node, step] = len(self.steps)
                self.steps.append(step)
                self.parents.append(node)
                self.labels.append([])
            node = self._place[node, step]
            nodes.append(node)
        return nodes

    def path(self, node: int) -> list[int]:
        """The nodes from the first step to this one."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def label(self, node: int, kind: str) -> Label | None:
        """The label of a kind, or None where there is none or where two contradict each other."""
        found = {label.value: label for label in self.labels[node] if label.kind == kind}
        return next(iter(found.values())) if len(found) == 1 else None

    def contradicting(self) -> int:
        """Nodes whose labels contradict each other."""
        return sum(
            len({label.value for label in labels if label.kind == kind}) > 1
            for labels in self.labels
            for kind in (STEPS, OUTCOMES)
        )

    def pruned(self, chosen: Iterable[int]) -> tuple[Tree, list[int]]:
        """The tree of the chosen nodes and of those before them, and where the chosen ones are in it."""
        chosen = list(chosen)
        kept = sorted({one for node in chosen for one in self.path(node)})
        number = {node: place for place, node in enumerate(kept)}
        parents = [number.get(self.parents[node], -1) for node in kept]
        tree = Tree(self.problem, [self.steps[n] for n in kept], parents, [self.labels[n] for n in kept])
        return tree, [number[node] for node in chosen]


def step_trees(rows: Iterable[Row], answer_mark: str) -> dict[str, Tree]:
    """Trees by problem of rows with `problem`, `steps`, `labels` and perhaps `ratings`; answers get no label here.

    The words just before an answer ("That's right. # Answer 4") were rated together with it, as right or wrong as the
    answer is: they get no label either.
    """
    trees: dict[str, Tree] = {}
    for row in rows:
        tree = trees.setdefault(row["problem"], Tree(row["problem"]))
        steps, ratings = row["steps"], row.get("ratings") or [None] * len(row["steps"])
        for index, node in enumerate(tree.add(steps)):
            value, last = row["labels"][index], index + 1 == len(steps)
            answers = steps[index].startswith(answer_mark) or (not last and steps[index + 1].startswith(answer_mark))
            if value is not None and not answers:
                tree.labels[node].append(Label(STEPS, int(value), ratings[index]))
    return trees


def choose(tree: Tree, kind: str, most: int, rng: np.random.Generator) -> list[int]:
    """At most `most` labelled nodes at random, half of each class as far as there are enough, in their order."""
    by_class: dict[int, list[int]] = {0: [], 1: []}
    for node in range(len(tree.steps)):
        label = tree.label(node, kind)
        if label:
            by_class[label.value].append(node)
    few, many = sorted((rng.permutation(nodes).tolist() for nodes in by_class.values()), key=len)
    taken = few[: most // 2]
    return sorted([int(node) for node in taken + many[: most - len(taken)]])
