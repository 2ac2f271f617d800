"""Worked solutions of public data sets, matched with the problems of a split.

PRM800K, MetaMATH and Math-Shepherd bring solutions and step labels, but no levels, and some of their problems are in
our test set. So a solution is used only if the problem it belongs to is one that trains; its level decides whether
easy-only stages may read it. Problems are matched by their text up to spacing and case, never by a part of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.data.levels import problem_key, shuffle_rank

EASIEST = 1  # level of problems outside MATH that are taken as easy


@dataclass(frozen=True)
class Solution:
    """One solution of a public data set, in steps.

    `original` is the text by which the problem is matched (a rephrased problem belongs to the one it was made from).
    `labels` has one entry a step: 1, 0 or None. `complete` says that it is a right solution up to its answer, fit for
    fine-tuning. `easy_source` marks sets that count as easy as a whole (the paper keeps all of MetaMATH's GSM8K part).
    """

    solution_id: str
    original: str
    problem: str
    steps: tuple[str, ...]
    labels: tuple[int | None, ...] | None = None
    complete: bool = False
    easy_source: bool = False
    level: int | None = None
    ratings: tuple[int | None, ...] | None = (
        None  # what people said of each step, where a set has more than right/wrong
    )
    first_error: int | None = None  # index of the first wrong step, -1 for none; None where a set leaves it to labels


@dataclass
class Matcher:
    """Gives solutions the level of their problem, leaves out those that may not train, and counts both.

    `outside` is what happens to problems that are in no part of the split: "exclude", or "easy" as in the paper's
    released code (their level is unknown, so hard problems slip into the easy side).
    """

    splits: dict[str, tuple[str, int | None]]  # problem key -> (split, level)
    outside: str = "exclude"
    counts: Counter[str] = field(default_factory=Counter)
    unmatched: set[str] = field(default_factory=set)  # keys of the problems that were found nowhere

    @classmethod
    def of(cls, prepare_dir: Path, outside: str) -> Matcher:
        """A matcher for the problems of a prepare stage; a problem that is in train and in test counts as test."""
        rows = [(split, row) for split in SPLITS for row in read_problems(prepare_dir, split)]
        return cls({problem_key(row["problem"]): (split, row["level"]) for split, row in rows}, outside)

    def match(self, solutions: Iterable[Solution]) -> Iterator[Solution]:
        """The solutions that may train, with their level."""
        for solution in solutions:
            key = problem_key(solution.original)
            split, level = self.splits.get(key, ("outside", None))
            if split == "outside" and (solution.easy_source or self.outside == "easy"):
                split, level = "outside, taken as easy", EASIEST
            self.counts[split] += 1
            if split == "outside":
                self.unmatched.add(key)
            if split in ("train", "outside, taken as easy"):
                yield replace(solution, level=level)

    def report(self) -> dict[str, int]:
        """Solutions by what became of them, and the number of distinct problems that were found nowhere."""
        return {
            "used": self.counts["train"] + self.counts["outside, taken as easy"],
            "taken as easy without a level": self.counts["outside, taken as easy"],
            "problem is in test": self.counts["test"],
            "problem is in validation": self.counts["validation"],
            "problem is unknown": self.counts["outside"],
            "unknown problems": len(self.unmatched),
        }


def without_repeats(solutions: Iterable[Solution]) -> Iterator[Solution]:
    """Leave out solutions whose problem, steps and labels were seen before.

    The problem belongs to the key, because different problems share first steps. Keeps 16 bytes a solution.
    """
    seen: set[bytes] = set()
    for solution in solutions:
        text = "\0".join([problem_key(solution.original), solution.problem, *solution.steps, str(solution.labels)])
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield solution


def draw(solutions: Sequence[Solution], per_problem: int, draws: int, seed: int) -> list[list[Solution]]:
    """`draws` sets of at most `per_problem` solutions of each original problem (0: all of them).

    The solutions of a problem are put in random order once and dealt out in turn, so that each is drawn before any is
    drawn twice.
    """
    groups: dict[str, list[Solution]] = defaultdict(list)
    for solution in solutions:
        groups[problem_key(solution.original)].append(solution)
    for group in groups.values():
        group.sort(key=lambda solution: shuffle_rank(seed, solution.solution_id))
    drawn = []
    for number in range(draws):
        dealt: list[Solution] = []
        for group in groups.values():
            count = min(per_problem, len(group)) if per_problem else len(group)
            dealt += [group[(number * count + i) % len(group)] for i in range(count)]
        drawn.append(dealt)
    return drawn
