"""What stages hand to each other: rows of JSON Lines, the files they are in, and how they are read.

| record | file |
|---|---|
| Problem | problems_SPLIT.jsonl of a `prepare` stage; answers stand apart, in the label files (`data.firewall`) |
| Sample | SAMPLES |
| Graded | GRADED |
| Scored | scored_file(NAME) |
| Preference | pairs_file(ROUND) |
| outcomes | OUTCOMES: `problem_id`, `level`, `policy`, `decoding`, `n`, `correct`, and what else `report` groups by |

A row stays the dict that it is in its file, because fields that are not ours pass through every stage; the classes say
which fields are ours, and the readers hold rows to them. Step labels are `reward_models.records.Stepwise`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from reward_models.files import BadRecord
from reward_models.records import iter_places

Row = dict[str, Any]

SAMPLES = "samples.jsonl"
GRADED = "graded.jsonl"
OUTCOMES = "outcomes.jsonl"


class Problem(TypedDict):
    """A problem without its label."""

    problem_id: str
    problem: str
    level: int | None  # 1 to 5
    subject: str
    source: str


class Sample(TypedDict):
    """A solution that a policy wrote."""

    problem_id: str
    sample_id: int
    text: str
    answer: str | None  # read from the text; None if there is none
    finished: bool  # the policy ended it by itself


class Graded(Sample):
    """A sample with the checker's verdict."""

    correct: bool
    reason: str


class Scored(Sample):
    """A sample with the scores of a reward model."""

    step_scores: list[float]  # probabilities, one a step
    score: float
    reward_model: str


class Preference(TypedDict):
    """Two solutions of a problem, of which the first is the better one."""

    prompt: str
    chosen: str
    rejected: str
    end: str  # text after both
    margin: float
    problem_id: str
    labelled: bool  # whether the problem's answer was read


def scored_file(name: str) -> str:
    """The samples of a bank with the scores of the reward model that the tables call `name`."""
    return f"scored_{name}.jsonl"


def pairs_file(number: int) -> str:
    """The preferences of a round."""
    return f"pairs_{number}.jsonl"


def read_samples(folder: Path, *needed: str) -> list[Row]:
    """The samples of a `sample` or `import` stage; each has at least `problem_id`, `text` and the `needed` fields."""
    return read_rows(folder / SAMPLES, Sample, ("problem_id", "text", *needed))


def read_graded(folder: Path, *needed: str) -> list[Row]:
    """The graded samples of a `grade` stage; each has at least `problem_id`, `text`, `correct` and the `needed`."""
    return read_rows(folder / GRADED, Graded, ("problem_id", "text", "correct", *needed))


def read_scored(folder: Path, name: str) -> list[Row]:
    """The samples that a `rerank` stage scored with the reward model `name`."""
    return read_rows(folder / scored_file(name), Scored, ("problem_id", "step_scores"))


def read_rows(path: Path, record: type, needed: Sequence[str]) -> list[Row]:
    """The rows of a file, as they are.

    Raises:
        FileNotFoundError: no such file.
        BadRecord: a row lacks a field of `needed`, or a field of `record` in it has another type.
    """
    hints = {name: _parts(hint) for name, hint in typing.get_type_hints(record).items()}
    allowed = {name: tuple(kind for part in parts for kind in _JSON[part][0]) for name, parts in hints.items()}
    rows = []
    for where, row in iter_places(path, needed):
        for name in allowed.keys() & row.keys():
            if not isinstance(row[name], allowed[name]):
                wanted = " or ".join(_JSON[part][1] for part in hints[name])
                raise BadRecord(f"{where}: {name} is {row[name]!r:.60}; it must be {wanted}")
        rows.append(row)
    return rows


# What JSON has for a type, and its name for people. Whole numbers are numbers too; tools write verdicts as 0 and 1.
_JSON: dict[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    bool: ((bool, int), "true or false"),
    list: ((list,), "a list"),
    types.NoneType: ((types.NoneType,), "null"),
}


def _parts(hint: Any) -> list[type]:
    if isinstance(hint, types.UnionType):
        return [part for member in typing.get_args(hint) for part in _parts(member)]
    return [typing.get_origin(hint) or hint]
