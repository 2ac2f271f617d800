"""Fields of other people's rows: the names under which problem, solution, answer and id go.

| ours | also read |
|---|---|
| `problem` | `question`, `prompt`, `query`, `instruction`; the last user message of `messages` or `conversations` |
| `solution` | `completion`, `response`; the reply in `messages` or `conversations` |
| `answer` | `final_answer`, `gold`, `ground_truth`, `expected_answer`, `reference_answer`, `target` |
| `problem_id` | `unique_id` |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from reward_models.files import BadRecord
from reward_models.messages import Exchange, is_conversation, last_exchange, text_of
from rlhf_e2h.data.files import Row

PROBLEM = ("problem", "question", "prompt", "query", "instruction")
SOLUTION = ("solution", "completion", "response")
ANSWER = ("answer", "final_answer", "gold", "ground_truth", "expected_answer", "reference_answer", "target")
IDENTITY = ("problem_id", "unique_id")
CONVERSATION = ("messages", "conversations")


def exchange(row: Row) -> Exchange | None:
    """The last question and reply of a conversational row; None for other rows.

    Raises:
        BadRecord: the conversation cannot be read.
    """
    for name in CONVERSATION:
        if is_conversation(row.fields.get(name)):
            try:
                return last_exchange(row.fields[name])
            except ValueError as error:
                raise BadRecord(f"{row.where}: {name}: {error}") from None
    return None


def problem_text(row: Row) -> str:
    """The problem, under any of its names.

    Raises:
        BadRecord: there is none, or it is not text, or it is empty.
    """
    talk = None if any(name in row.fields for name in PROBLEM) else exchange(row)
    if talk is not None:
        return _full(row, talk.problem)
    name = next((name for name in PROBLEM if name in row.fields), PROBLEM[0])
    value = row.fields.get(name)
    if is_conversation(value):  # TRL's conversational prompt
        try:
            return _full(row, last_exchange(value).problem)
        except ValueError as error:
            raise BadRecord(f"{row.where}: {name}: {error}") from None
    return row.text(*PROBLEM)


def _full(row: Row, text: str) -> str:
    if not text.strip():
        raise BadRecord(f"{row.where}: the user's message is empty; it must hold the problem")
    return text.strip()


def solution_of(row: Row) -> str:
    """The written solution, under any of its names; "" where there is none.

    Raises:
        BadRecord: it is not text.
    """
    for name in SOLUTION:
        if row.fields.get(name) is not None:
            try:
                return text_of(row.fields[name], f"field {name!r}").strip()
            except ValueError as error:
                raise BadRecord(f"{row.where}: {error}, or null if there is none") from None
    talk = exchange(row)
    return talk.reply.strip() if talk else ""


def answer_of(row: Row, names: Sequence[str] = ANSWER) -> str:
    """The reference answer, text or a number, under any of its names; "" where there is none.

    Raises:
        BadRecord: it is something else.
    """
    for name in names:
        value = row.fields.get(name)
        if isinstance(value, list) and len(value) == 1:  # OlympiadBench's final_answer
            value = value[0]
        if value is None:
            continue
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
            raise BadRecord(f"{row.where}: field {name!r} is {value!r:.60}; give the answer as text or a number")
        return number_text(value)
    return ""


def number_text(value: float) -> str:
    """A number as a person writes it: 5 for 5.0 (a column of whole numbers with a gap), 0.0000001 for 1e-07."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")


def given_id(row: Row, names: Sequence[str] = IDENTITY) -> str:
    """The row's own id as text; "" without one.

    Raises:
        BadRecord: it is neither text nor a whole number.
    """
    for name in names:
        value: Any = row.fields.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise BadRecord(f"{row.where}: field {name!r} is {value!r:.60}; an id is text or a whole number")
        return str(value)
    return ""
