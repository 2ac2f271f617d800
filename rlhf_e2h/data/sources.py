"""Both sides of a source of problems, read with the reader of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rlhf_e2h.data.apps import read_apps
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.gsm8k import read_gsm8k
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.data.levels import problem_key
from rlhf_e2h.data.math import read_math
from rlhf_e2h.data.own_rows import problem_text


@dataclass
class Sides:
    """The train and test side of a source, and the `problem_key`s of the rows marked `in_math500`."""

    train: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    math500: set[str] = field(default_factory=set)


def read_sides(
    source: str, rows_of: Callable[[str], Iterable[Row]], intake: Intake, step_levels: Sequence[int] = ()
) -> Sides:
    """Read both sides; `rows_of` gives the rows of "train" and "test". `step_levels`: see `read_gsm8k`.

    Raises:
        BadRecord: a row cannot be used.
    """
    sides = Sides()
    for origin, side in (("train", sides.train), ("test", sides.test)):
        rows = _marking(rows_of(origin), sides.math500)
        if source == "gsm8k":
            side += read_gsm8k(rows, origin, intake, step_levels)
        elif source == "apps":
            side += read_apps(rows, origin, intake)
        else:
            side += read_math(rows, origin, intake, source, answer_field_first=source == "jsonl")
    return sides


def _marking(rows: Iterable[Row], marked: set[str]) -> Iterator[Row]:
    for row in rows:
        if row.fields.get("in_math500"):
            marked.add(problem_key(problem_text(row)))
        yield row
