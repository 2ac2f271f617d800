"""JSON Lines records: reading with `file:line` errors, atomic writing, and the `Stepwise` training record."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reward_models.files import BadRecord, iter_lines, parse_object

__all__ = ["BadRecord", "Stepwise", "iter_jsonl", "iter_places", "read_jsonl", "read_stepwise", "write_jsonl"]


def iter_jsonl(path: str | Path, required: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield one dict a line; `.gz` and `.zst` are decompressed, blank lines skipped, line ends in texts are LF.

    Raises:
        FileNotFoundError: no such file.
        BadRecord: a line is not UTF-8, not JSON, not an object, or lacks a field of `required`.
    """
    return (row for _, row in iter_places(path, required))


def iter_places(path: str | Path, required: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """`iter_jsonl` with the `file:line` of each row."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a JSON Lines file")
    for where, raw in iter_lines(path):
        row = parse_object(raw, where)
        missing = [name for name in required if name not in row]
        if missing:
            raise BadRecord(f"{where}: missing field {missing[0]!r}; the row has {sorted(row)}")
        yield where, row


def read_jsonl(path: str | Path, required: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All rows of `iter_jsonl`, as a list."""
    return list(iter_jsonl(path, required))


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows under a temporary name and rename when complete, so no reader sees half a file. Returns the count."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


_LABELS: dict[Any, int | None] = {None: None, 1: 1, 0: 0, -1: 0, "+": 1, "-": 0}


def as_label(value: Any, name: str = "label") -> int | None:
    """1, 0 or None from 1, 0, -1 (a wrong step), true, false, "+", "-", null and NaN.

    Raises:
        ValueError: anything else, such as a probability.
    """
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, int | float | str | None) or value not in _LABELS:
        raise ValueError(f"{name} {value!r:.60} is not allowed; use 1 for right, 0 (or -1) for wrong, null for unknown")
    return _LABELS[value]


def as_labels(values: Any) -> list[int | None]:
    """`as_label` of each step.

    Raises:
        ValueError: not a list, or both 0 and -1 in it: then 0 may mean neutral, as in PRM800K.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"labels is {values!r:.60}; give a list with one label a step")
    if any(value == -1 for value in values) and any(value == 0 and value is not False for value in values):
        raise ValueError(
            "labels hold both -1 and 0, so what is 0? Write -1 for wrong steps, and 1 (as in PRM800K) or null for "
            "neutral ones"
        )
    return [as_label(value) for value in values]


def first_wrong(labels: Sequence[int | None]) -> int | None:
    """Index of the first 0, -1 if there is none, None if an unlabelled step could be the first wrong one."""
    first = labels.index(0) if 0 in labels else -1
    return None if None in (labels[:first] if first >= 0 else labels) else first


@dataclass
class Stepwise:
    """One solution with its labels, the only training record of reward models.

    `labels` has one entry a step: 1 valid, 0 invalid, None unlabelled. `outcome` is 1 if the final answer is right,
    0 if wrong, None if unknown. Other spellings of labels (see `as_label`) are turned into these. Fields that are not
    ours pass through in `extra`; of these `first_error` (index, -1 for none) is read by the first-error F1, for records
    of a tree whose other paths hold the labels of the steps that they share.

    Raises:
        ValueError: a field of the wrong type, or labels that are none.
    """

    problem: str
    steps: list[str]
    labels: list[int | None] | None = None
    outcome: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.problem, str):
            raise ValueError(f"problem is {self.problem!r:.60}; it must be text")
        if isinstance(self.steps, str):
            raise ValueError("steps is text; give a list of texts (or a field text)")
        self.steps = list(self.steps)
        if not self.steps:
            raise ValueError("steps is empty; a record needs at least one step")
        for step in self.steps:
            if not isinstance(step, str):
                raise ValueError(f"steps holds {step!r:.60}; each step must be text")
        if self.labels is not None:
            self.labels = as_labels(self.labels)
        if self.labels is not None and len(self.labels) != len(self.steps):
            raise ValueError(f"{len(self.labels)} labels for {len(self.steps)} steps; give one label a step, or null")
        self.outcome = as_label(self.outcome, "outcome")
        first = self.extra.get("first_error")
        if first is not None and (isinstance(first, bool) or first not in range(-1, len(self.steps))):
            raise ValueError(f"first_error {first!r:.60} is not allowed; give the index of a step, -1 or null")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Stepwise:
        known = {"problem", "steps", "labels", "outcome"}
        extra = {key: value for key, value in row.items() if key not in known}
        return cls(row["problem"], row["steps"], row.get("labels"), row.get("outcome"), extra)

    def to_row(self) -> dict[str, Any]:
        row = asdict(self)
        return {**row.pop("extra"), **row}


def read_stepwise(path: str | Path) -> list[Stepwise]:
    """Read `Stepwise` records; a row that breaks the record's rules raises BadRecord naming file and line."""
    records = []
    for where, row in iter_places(path, required=("problem", "steps")):
        try:
            records.append(Stepwise.from_row(row))
        except (ValueError, TypeError) as error:
            raise BadRecord(f"{where}: {error}") from None
    return records
