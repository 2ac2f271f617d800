"""A small world of arithmetic whose problems have levels 1-5 and whose steps can be checked.

A problem defines variables one after the other, each from the one before, in arithmetic modulo 5:

    p=4+3;q=p*4;r=q+1;r=?      answered by the steps      p=4+3=2 | q=2*4=3 | r=3+1=4      and the answer 4

The level is the number of operations. What makes hard problems hard is not only their length. The texts from which the
base model learns come from a world with *misconceptions*: some arithmetic facts are written down wrongly, always in the
same way, now and then in easy texts and most of the time in hard ones. So hard problems are where the base model is
systematically wrong (voting repeats the mistake), while easy problems show each fact both right and wrong (so that a
verifier can learn it). Random slips alone do not give that picture: greedy decoding would be right everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rlhf_e2h.data.made import distinct_rows
from rlhf_e2h.data.sources import Source

MODULUS = 5
OPERATORS = "+*"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPERATIONS_BY_LEVEL = {1: (1, 2), 2: (3,), 3: (4,), 4: (6,), 5: (8,)}
EASY_LEVELS = (1, 2, 3)
MARKS = (" ok", " no")  # a reader's mark behind a step: believed, not believed
MARKED_SECTION = "# Marked solution"

_STEP = re.compile(r"([a-z])=(\d)([+*])(\d)=(\d)")
_DEFINITION = re.compile(r"([a-z])=([a-z0-9])([+*])([a-z0-9])")

Fact = tuple[int, str, int]


def fact_value(left: int, operator: str, right: int) -> int:
    return (left + right if operator == "+" else left * right) % MODULUS


@dataclass(frozen=True)
class World:
    """How often the texts of this world are wrong. The defaults are those of the shipped base model."""

    misconceived_share: float = 0.17  # of all arithmetic facts
    wrong_easy: float = 0.30  # probability that a misconceived fact is written wrongly in an easy problem's text
    wrong_hard: float = 0.85  # the same in a hard problem's text
    slip: float = 0.02  # probability of a random wrong result at any step
    seed: int = 7

    @cached_property
    def misconceptions(self) -> dict[Fact, int]:
        """The facts that this world believes wrongly, each with the value it believes."""
        rng = np.random.default_rng(self.seed)
        facts = [(a, op, b) for op in OPERATORS for a in range(MODULUS) for b in range(1, MODULUS)]
        chosen = rng.permutation(len(facts))[: round(self.misconceived_share * len(facts))]
        return {
            facts[i]: int((fact_value(*facts[i]) + rng.integers(1, MODULUS)) % MODULUS) for i in sorted(chosen.tolist())
        }


def make_problem(level: int, rng: np.random.Generator) -> str:
    """One problem text of the level, without its answer."""
    operations = int(rng.choice(OPERATIONS_BY_LEVEL[level]))
    first = int(rng.integers(len(LETTERS) - operations + 1))
    names = LETTERS[first : first + operations]
    definitions = []
    for index, name in enumerate(names):
        operator = OPERATORS[int(rng.integers(len(OPERATORS)))]
        left = names[index - 1] if index else str(rng.integers(MODULUS))
        definitions.append(f"{name}={left}{operator}{rng.integers(1, MODULUS)}")  # x+0 and x*0 say too little
    return ";".join(definitions) + f";{names[-1]}=?"


def solve(
    problem: str, rng: np.random.Generator | None = None, world: World | None = None, hard: bool = False
) -> tuple[list[str], str]:
    """Steps and answer of a problem: exact without `world`, else as the world's texts would write them.

    A wrong result is carried on, as a writer who does not notice it would.
    """
    values: dict[str, int] = {}
    steps = []
    for name, left_text, operator, right_text in _definitions(problem):
        left, right = (values[t] if t in values else int(t) for t in (left_text, right_text))
        value = fact_value(left, operator, right)
        if world is not None and rng is not None:
            value = _written_value((left, operator, right), rng, world, hard)
        values[name] = value
        steps.append(f"{name}={left}{operator}{right}={value}")
    return steps, str(values[_asked(problem)])


def _written_value(fact: Fact, rng: np.random.Generator, world: World, hard: bool) -> int:
    wrong_rate = world.wrong_hard if hard else world.wrong_easy
    if fact in world.misconceptions and rng.random() < wrong_rate:
        return world.misconceptions[fact]
    if rng.random() < world.slip:
        return int(rng.integers(MODULUS))
    return fact_value(*fact)


def _definitions(problem: str) -> list[tuple[str, str, str, str]]:
    return [(m[1], m[2], m[3], m[4]) for m in _DEFINITION.finditer(problem)]


def _asked(problem: str) -> str:
    return problem.rstrip("=?")[-1]


def step_labels(problem: str, steps: Iterable[str]) -> list[int]:
    """Is each step valid *given the lines before it*? 1 or 0 a step, the answer section included.

    A step is valid if it works out the next definition, takes its operands from the problem and the values written
    above it, and states the right result. A step that builds correctly on an earlier mistake is valid: this is what a
    reader can check locally, and the label of the prefix is the minimum over its steps.
    """
    definitions = _definitions(problem)
    values: dict[str, int] = {}
    labels = []
    for index, step in enumerate(steps):
        if step.startswith("# Answer"):
            stated = step.removeprefix("# Answer").strip()
            complete = index == len(definitions)
            labels.append(int(complete and stated == str(values.get(_asked(problem)))))
            continue
        match = _STEP.fullmatch(step)
        if match is None or index >= len(definitions):
            labels.append(0)
            continue
        labels.append(int(_is_valid(match, definitions[index], values)))
        values[match[1]] = int(match[5])
    return labels


def _is_valid(match: re.Match[str], definition: tuple[str, str, str, str], values: dict[str, int]) -> bool:
    name, left_text, operator, right_text = definition
    left, right = (values.get(t, -1) if t.isalpha() else int(t) for t in (left_text, right_text))
    written = (match[1], int(match[2]), match[3], int(match[4]), int(match[5]))
    return written == (name, left, operator, right, fact_value(left, operator, right))


def make_problems(n_per_level: dict[int, int], seed: int, exclude: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Distinct problems with their exact solutions; see `distinct_rows`."""
    return distinct_rows("procedural", n_per_level, seed, exclude, make_problem, solve)


def world_text(rng: np.random.Generator, world: World, level: int) -> tuple[str, list[str], str]:
    """One (problem, steps, answer) of a level as the world writes it; what the base model is trained on."""
    problem = make_problem(level, rng)
    steps, answer = solve(problem, rng, world, hard=level not in EASY_LEVELS)
    return problem, steps, answer


def marked_text(rng: np.random.Generator, world: World, level: int) -> tuple[str, list[str]]:
    """A problem and somebody's steps, each with the mark of a reader who shares the world's misconceptions.

    Marks are what this world *believes*: they teach a base model to compare a result with its own belief, and nothing
    about which beliefs are wrong. That is for the labels of a reward model.
    """
    problem = make_problem(level, rng)
    hard = level not in EASY_LEVELS
    careless = replace(world, slip=0.25)
    steps, _ = solve(problem, rng, careless, hard)
    reader = replace(world, slip=0.0)
    marked = []
    for step in steps:
        match = _STEP.fullmatch(step)
        assert match is not None, step
        believed = _written_value((int(match[2]), match[3], int(match[4])), rng, reader, hard)
        marked.append(step + (MARKS[0] if believed == int(match[5]) else MARKS[1]))
    return problem, marked


SOURCE = Source("procedural", made=make_problems, tokens=(45, 60))
