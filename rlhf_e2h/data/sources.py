"""Sources of data. Each is declared once, in a file of this folder beside its reader, and found there:

    SOURCE = Source("gsm8k", problems=read_gsm8k_side, counts=(7_000, 473, 1_319))

`prepare` reads and writes by what is declared, `e2h plan` counts by it. A source gives problems (from rows, or made by
a generator), or solutions and step labels of the problems of another `prepare` stage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_e2h.data.example import Example
from rlhf_e2h.data.files import Row, iter_rows
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.data.levels import problem_key
from rlhf_e2h.data.own_rows import problem_text
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.runner.config import nearest

PACKAGE = "rlhf_e2h.data"


@dataclass(frozen=True)
class Source:
    """A source of data: one of `problems`, `solutions` and `made` reads or makes it.

    `settings` below are those of the `prepare` stage, the numbers are what `e2h plan` assumes of what it cannot count.
    """

    name: str
    # (rows of a side, "train" or "test", what to do with flawed rows, settings) -> problems with their labels
    problems: Callable[[Iterable[Row], str, Intake, Any], Iterator[Example]] | None = None
    solutions: Callable[[Iterable[Row], Any], Iterator[Solution]] | None = None  # (rows, settings)
    # (problems of each level, seed, texts that are taken) -> rows with all fields of an Example
    made: Callable[[dict[int, int], int, Iterable[str]], list[dict[str, Any]]] | None = None
    rows: Callable[[Path, str], Iterable[Row]] = iter_rows  # (path, "train" or "test")
    in_steps: bool = True  # solutions are texts to be cut into steps
    step_levels: bool = False  # the setting `step_levels` gives levels to its problems
    counts: tuple[int, int, int] = (10_000, 500, 500)  # problems of train, validation and test, or solutions
    step_records: int = 10_000  # records with step labels
    tokens: tuple[int, int] = (110, 260)  # of a problem and of its solution


@cache
def sources() -> dict[str, Source]:
    """All sources by name, in the order of the files that declare them."""
    folders = importlib.import_module(PACKAGE).__path__
    files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
    declaring = [file.stem for file in files if "\nSOURCE = " in file.read_text(encoding="utf-8")]
    found = [importlib.import_module(f"{PACKAGE}.{name}").SOURCE for name in declaring]
    return {source.name: source for source in found}


def find_source(name: str) -> Source:
    """The source of this name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in sources():
        raise ValueError(f"source {name!r} is not known; {nearest(name, sources())}")
    return sources()[name]


@dataclass
class Sides:
    """The train and test side of a source, and the `problem_key`s of the rows marked `in_math500`."""

    train: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    math500: set[str] = field(default_factory=set)


def read_sides(source: Source, rows_of: Callable[[str], Iterable[Row]], intake: Intake, settings: Any) -> Sides:
    """Read both sides; `rows_of` gives the rows of "train" and "test".

    Raises:
        BadRecord: a row cannot be used.
    """
    assert source.problems is not None, f"{source.name} has no problems of its own"
    sides = Sides()
    for origin, side in (("train", sides.train), ("test", sides.test)):
        side += source.problems(_marking(rows_of(origin), sides.math500), origin, intake, settings)
    return sides


def _marking(rows: Iterable[Row], marked: set[str]) -> Iterator[Row]:
    for row in rows:
        if row.fields.get("in_math500"):
            marked.add(problem_key(problem_text(row)))
        yield row
