"""Other people's step data to `Stepwise` records. Every row that cannot be used is reported as `file:line: reason`.

| format | rows | labels |
|---|---|---|
| stepwise | ours | as they are |
| prm800k | openai/prm800k, phases 1 and 2 | -1 -> 0; 0 and +1 -> 1 |
| math-shepherd | peiyi9979/Math-Shepherd | - -> 0; + -> 1 |
| processbench | Qwen/ProcessBench | 1 before the first error, 0 on it, null behind it |
| trl | TRL's stepwise supervision (`prompt`, `completions`, `labels`) | as they are |
| math-aps | MATH-APS trees (`reasoning_steps` with `mc_value`) | last step: 1 if any rollout was right |
| graded | samples with `problem`, `text` or `steps`, `correct` (or `outcome`, `label`) | outcome only |
| messages, completion, rlhflow, openrlhf | other libraries' (see conversational.py) | outcome or steps |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reward_models.contract import PLAIN
from reward_models.conversational import (
    VERDICTS,
    from_completion,
    from_messages,
    from_openrlhf,
    from_rlhflow,
    verdict,
)
from reward_models.files import without_nan
from reward_models.messages import is_conversation, last_exchange, text_of
from reward_models.prm800k import from_prm800k
from reward_models.readout import split_steps
from reward_models.records import BadRecord, Stepwise, iter_places
from reward_models.shepherd import from_math_shepherd

Row = Mapping[str, Any]
AFTER_ERROR = ("drop", "keep")

T = TypeVar("T")


def load_records(path: str | Path, style: str = "auto", after_error: str = "drop") -> tuple[list[Stepwise], list[str]]:
    """All records of a JSON Lines file, and the reasons `file:line: ...` for the rows that gave none.

    `style` is a key of CONVERTERS or "auto", which recognises each row by its fields. `after_error` says what becomes
    of steps behind the first wrong one: "drop" them or "keep" them with their labels.

    Raises:
        FileNotFoundError: no such file.
        BadRecord: a line that is not JSON at all, or no usable row in the whole file.
        ValueError: unknown style.
    """
    if style != "auto" and style not in CONVERTERS:
        raise ValueError(f"format {style!r} is not known; choose one of auto, {', '.join(CONVERTERS)}")
    if after_error not in AFTER_ERROR:
        raise ValueError(f"after_error {after_error!r} is not known; choose one of {', '.join(AFTER_ERROR)}")
    records: list[Stepwise] = []
    bad: list[str] = []
    for where, row in iter_places(path):
        try:
            found = convert(without_nan(row), style)
        except _FLAWS as error:
            bad.append(f"{where}: {_reason(error)}")
            continue
        records += [cut_after_error(record) if after_error == "drop" else record for record in found]
    if not records:
        raise BadRecord(f"{path}: no usable row; {bad[0] if bad else 'the file is empty'}")
    return records, bad


def read_records(path: str | Path) -> list[Stepwise]:
    """All records of a JSON Lines file in any format, with the labels behind a wrong step.

    Raises:
        BadRecord: the first row that cannot be used, as `file:line: reason`.
    """
    records: list[Stepwise] = []
    for where, row in iter_places(path):
        try:
            records += convert(without_nan(row))
        except _FLAWS as error:
            raise BadRecord(f"{where}: {_reason(error)}") from None
    if not records:
        raise BadRecord(f"{path}: the file is empty")
    return records


# What a converter raises on a row that lacks a field or has another type in it.
_FLAWS = (ValueError, TypeError, KeyError, AttributeError, IndexError)


def _reason(error: Exception) -> str:
    return f"missing field {error}" if isinstance(error, KeyError) else str(error)


def convert(row: Row, style: str = "auto") -> list[Stepwise]:
    """Records of one row; a PRM800K tree gives several."""
    if style == "auto":
        style = recognise(row)
    return CONVERTERS[style](row)


def recognise(row: Row) -> str:
    """The format of a row by its fields."""
    for style, fields in _FIELDS.items():
        if fields <= set(row):
            return style
    if set(row) >= _TEXT:
        return "graded"
    if {"chosen", "rejected"} <= set(row):
        raise ValueError("a pair of a chosen and a rejected solution; pairs are for `train --kind pairwise`")
    raise ValueError(f"unknown format, the row has {sorted(row)}; known are {', '.join(CONVERTERS)}")


def from_processbench(row: Row) -> list[Stepwise]:
    """`label` is the index of the first wrong step, -1 if there is none."""
    steps, first = row["steps"], row["label"]
    if not isinstance(first, int) or not -1 <= first < len(steps):
        raise ValueError(f"label {first!r} is not a step of {len(steps)}, nor -1")
    labels: list[int | None] = [1] * len(steps)
    if first >= 0:
        labels = [*[1] * first, 0, *[None] * (len(steps) - first - 1)]
    extra = {"source": "processbench", "id": row.get("id"), "generator": row.get("generator")}
    return [Stepwise(row["problem"], list(steps), labels, int(row["final_answer_correct"]), extra)]


def from_trl(row: Row) -> list[Stepwise]:
    """TRL's stepwise supervision; labels are booleans there."""
    prompt, completions = row["prompt"], row["completions"]
    if isinstance(completions, str):
        raise ValueError("completions is text; give a list with one text a step")
    problem = last_exchange(prompt).problem if is_conversation(prompt) else text_of(prompt, "prompt")
    return [Stepwise(problem, completions, row["labels"])]


def from_math_aps(row: Row) -> list[Stepwise]:
    """One record for each node: its text split into steps, the last labelled by its rollouts (`mc_value` > 0).

    Prefixes may repeat the question; the bare question gives no record.
    """
    records = []
    for node in row["reasoning_steps"]:
        text = node["solution_prefix"].removeprefix(row["question"]).strip()
        if text:
            steps = split_steps(PLAIN, text)
            labels = [*[None] * (len(steps) - 1), int(node["mc_value"] > 0)]
            extra = {"source": "math-aps", "mc_value": node["mc_value"]}
            records.append(Stepwise(row["question"], steps, labels, None, extra))
    if not records:
        raise ValueError("no node with text behind the question")
    return records


def from_graded(row: Row) -> list[Stepwise]:
    """A sampled solution and its verdict; `text` is cut at blank lines."""
    steps = row["steps"] if "steps" in row else split_steps(PLAIN, text_of(row["text"], "text"))
    extra = {key: value for key, value in row.items() if key not in {"problem", "text", "steps", *VERDICTS}}
    return [Stepwise(row["problem"], steps, None, verdict(row), extra)]


CONVERTERS: dict[str, Callable[[Row], list[Stepwise]]] = {
    "stepwise": lambda row: [Stepwise.from_row(row)],
    "prm800k": from_prm800k,
    "math-shepherd": from_math_shepherd,
    "processbench": from_processbench,
    "trl": from_trl,
    "math-aps": from_math_aps,
    "openrlhf": from_openrlhf,
    "rlhflow": from_rlhflow,
    "messages": from_messages,
    "completion": from_completion,
    "graded": from_graded,
}
# Tried in this order; the more particular come first.
_FIELDS = {
    "prm800k": {"question", "label", "labeler"},
    "math-aps": {"question", "reasoning_steps"},
    "processbench": {"problem", "steps", "label", "final_answer_correct"},
    "math-shepherd": {"input", "label"},
    "openrlhf": {"input", "value"},
    "trl": {"prompt", "completions", "labels"},
    "rlhflow": {"conversations"},
    "messages": {"messages"},
    "completion": {"prompt", "completion"},
    "graded": {"problem", "correct"},
    "stepwise": {"problem", "steps"},
}
_TEXT = {"problem", "text"}  # graded under another name of the verdict


def cut_after_error(record: Stepwise) -> Stepwise:
    """The record without steps behind the first label 0; its outcome goes too if the answer was cut off."""
    labels = record.labels or []
    if 0 not in labels or labels.index(0) == len(labels) - 1:
        return record
    end = labels.index(0) + 1
    return Stepwise(record.problem, record.steps[:end], labels[:end], None, record.extra)


def _outcome(record: Any) -> tuple[str, int | None]:
    return record.problem, record.outcome


def balance(
    records: Iterable[T], ratio: float = 3.0, verdict: Callable[[T], tuple[str, int | None]] = _outcome
) -> list[T]:
    """Right to wrong between 1:ratio and ratio:1 for each problem (Sun et al. 2024, C.1), problem after problem.

    Of the larger side the first are kept. Problems with one side only are left out, since they teach the problem and
    not the solution; so are records without an outcome. `verdict` gives a record's problem and outcome.
    """
    if ratio < 1:
        raise ValueError(f"ratio is {ratio}; it must be at least 1")
    groups: dict[str, tuple[list[T], list[T]]] = {}
    for record in records:
        problem, right = verdict(record)
        if right is not None:
            groups.setdefault(problem, ([], []))[not right].append(record)
    most = {problem: int(ratio * min(map(len, sides))) for problem, sides in groups.items()}
    return [record for problem, sides in groups.items() for side in sides for record in side[: most[problem]]]
