"""Labelled solutions in the shapes of other training libraries, as `Stepwise` records.

| format | rows | labels |
|---|---|---|
| messages | `messages` (OpenAI, TRL), and `label`, `correct` or `outcome` | outcome of the last reply |
| completion | `prompt`, `completion` (text or messages), and `label` (TRL's KTO), `correct` or `outcome` | outcome |
| rlhflow | `conversations`: the user says a step, the assistant + or - | each step; in one turn: outcome |
| openrlhf | `input` with a mark after each step, `value` with a label for each mark | each step |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reward_models.contract import PLAIN
from reward_models.messages import is_conversation, last_exchange, text_of, turns
from reward_models.readout import split_steps
from reward_models.records import Stepwise, as_label, as_labels

Row = Mapping[str, Any]
VERDICTS = ("correct", "outcome", "label", "is_correct")
# After each step of OpenRLHF's `input`: Math-Shepherd's Cyrillic mark, or a special token of the tokenizer.
_MARK = re.compile(r"\s*(?:ки|<\|?(?:step|extra_0|reserved_special_token_\d+|placeholder)\|?>)")
FIRST_STEP = re.compile(r"\s*\bStep 1\s*:")
_STEP = re.compile(r"\s*\bStep \d+\s*:\s*")
ANSWER_PHRASE = "The answer is:"
BLANK_LINE = re.compile(r"\s*\n\s*\n\s*")


def verdict(row: Row) -> int | None:
    """The label of a whole solution.

    Raises:
        ValueError: no field for it, or a value that is not a label.
    """
    name = next((name for name in VERDICTS if row.get(name) is not None), None)
    if name is None:
        raise ValueError(f"no label; give one of {', '.join(VERDICTS)} (1 or true for a right solution, 0 or false)")
    return as_label(row[name], name)


def outcome_record(problem: str, text: str, row: Row, taken: tuple[str, ...]) -> Stepwise:
    """A solution and its label; the fields that are not `taken` pass through."""
    extra = {key: value for key, value in row.items() if key not in {*taken, *VERDICTS}}
    return Stepwise(problem, split_steps(PLAIN, text), None, verdict(row), extra)


def from_messages(row: Row, name: str = "messages") -> list[Stepwise]:
    """The last reply to the last question."""
    talk = last_exchange(row[name])
    if not talk.reply.strip():
        raise ValueError(f"{name} end without a reply of the assistant")
    return [outcome_record(talk.problem, talk.reply, row, (name,))]


def from_completion(row: Row) -> list[Stepwise]:
    """TRL's unpaired preferences (KTO), or a prompt and a completion with a verdict."""
    prompt = row["prompt"]
    problem = last_exchange(prompt).problem if is_conversation(prompt) else text_of(prompt, "prompt")
    return [outcome_record(problem, text_of(row["completion"], "completion"), row, ("prompt", "completion"))]


def from_rlhflow(row: Row) -> list[Stepwise]:
    """The first message holds the problem too, up to "Step 1:". Other conversations are read as `messages`."""
    said = [turn for turn in turns(row["conversations"]) if turn.role != "system"]
    asked, judged = said[::2], said[1::2]
    if not {turn.text.strip() for turn in judged} <= {"+", "-"} or not judged:
        return from_messages(row, "conversations")
    if [turn.role for turn in said] != ["user", "assistant"] * len(judged):
        raise ValueError("conversations must be turns of the user (a step) and the assistant (+ or -), one each")
    first = FIRST_STEP.search(asked[0].text)
    if first is None:
        raise ValueError("no 'Step 1:' in the first message, so problem and step cannot be told apart")
    problem, start = asked[0].text[: first.start()].strip(), asked[0].text[first.start() :]
    texts = [start, *[turn.text for turn in asked[1:]]]
    labels = as_labels([turn.text.strip() for turn in judged])
    extra = {"source": "rlhflow"}
    pieces = [piece for piece in _STEP.split(start) if piece.strip()]
    if len(texts) == 1 and len(pieces) > 1:  # an outcome: the whole solution in one message
        steps = [part for piece in pieces for part in parts_of(piece)]
        return [Stepwise(problem, steps, None, labels[0], extra)]
    return [labelled(problem, texts, labels, extra)]


def from_openrlhf(row: Row) -> list[Stepwise]:
    """Process rewards as OpenRLHF's `train_prm` reads them: one mark in `input` for each entry of `value`."""
    text, values = row["input"], row["value"]
    if not isinstance(text, str):
        raise ValueError(f"input is {text!r:.60}; it must be text")
    labels = as_labels(values)
    *segments, rest = _MARK.split(text)
    if len(segments) != len(labels) or rest.strip():
        raise ValueError(
            f"{len(segments)} marks in input and {len(labels)} entries in value; each step ends in one mark (ки or a "
            "special token), and nothing follows the last"
        )
    first = FIRST_STEP.search(segments[0])
    if first is None:
        raise ValueError("no 'Step 1:' in input, so problem and first step cannot be told apart")
    problem = segments[0][: first.start()].strip()
    segments[0] = segments[0][first.start() :]
    return [labelled(problem, segments, labels, {"source": "openrlhf"})]


def labelled(problem: str, texts: Sequence[str], labels: Sequence[int | None], extra: dict[str, Any]) -> Stepwise:
    """A record from texts "Step k: ..." with a label each; one that states the answer is two steps of that label.

    The label of an answer at the end is the outcome.
    """
    steps, marks = cut_steps(texts, labels)
    outcome = marks[-1] if steps and steps[-1].startswith(PLAIN.answer_mark) else None
    return Stepwise(problem, steps, marks, outcome, extra)


def cut_steps(texts: Sequence[str], labels: Sequence[int | None]) -> tuple[list[str], list[int | None]]:
    """Steps without their "Step k: ", each with its label; the answer, where one is stated, is a step after it."""
    steps: list[str] = []
    marks: list[int | None] = []
    for text, label in zip(texts, labels, strict=True):
        number = _STEP.match(text)
        parts = parts_of(text[number.end() :] if number else text)
        steps += parts
        marks += [label] * len(parts)
    return steps, marks


def parts_of(text: str) -> list[str]:
    """The text of a step without blank lines, and after it the answer section if it says "The answer is: X"."""
    body, phrase, answer = text.rpartition(ANSWER_PHRASE)
    body, answer = (body, answer) if phrase else (answer, "")
    parts = [BLANK_LINE.sub("\n", body.strip())] if body.strip() else []
    return [*parts, f"{PLAIN.answer_mark}{PLAIN.separator}{answer.strip()}"] if answer.strip() else parts
