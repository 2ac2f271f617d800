"""Math-Shepherd (Wang et al. 2023, arXiv 2312.08935): step labels estimated from rollouts.

`input` is problem and solution in one text in which ` ки` ends every step; `label` is the same text with + or - there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from reward_models.records import BadRecord
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.gsm8k import without_calculations
from rlhf_e2h.data.metamath import ANSWER_PHRASE
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.prompts import SECTIONS

STEP_END = "ки"
LABELS = {"+": 1, "-": 0}
_FIRST_STEP = re.compile(r"\s*Step 1:")
_STEP_NUMBER = re.compile(r"^\s*Step \d+:\s*")
_BLANK_LINE = re.compile(r"\s*\n\s*\n\s*")


def read_shepherd(rows: Iterable[Row], tasks: tuple[str, ...] = ("MATH",)) -> Iterator[Solution]:
    """Solutions with step labels, of the given tasks (all of them if none is given).

    Rows without a first step are skipped; a last step without a label (a truncated row) is dropped.

    Raises:
        BadRecord: `input` and `label` differ in more than the step ends.
    """
    for index, row in enumerate(rows):
        text, labelled = row.text("input"), row.text("label")
        if tasks and row.text("task") not in tasks:
            continue
        start = _FIRST_STEP.search(text)
        if start is None:
            continue
        steps, labels = _labelled_steps(text, labelled, start.start(), row.where)
        if steps:
            problem = text[: start.start()].strip()
            yield Solution(f"shepherd-{index:06d}", problem, problem, tuple(steps), tuple(labels))


def _labelled_steps(text: str, labelled: str, start: int, where: str) -> tuple[list[str], list[int | None]]:
    steps: list[str] = []
    labels: list[int | None] = []
    position, shift = start, 0  # `labelled` has one character where `text` has the two of the step end
    if labelled[:start] != text[:start]:
        raise BadRecord(f"{where}: `input` and `label` do not begin with the same problem")
    while (end := text.find(STEP_END, position)) >= 0:
        sign = labelled[end - shift : end - shift + 1]
        same = labelled[position - shift : end - shift] == text[position:end]
        if not sign and not text[end:].strip(STEP_END + " \n"):
            break
        if not same or sign not in LABELS:
            raise BadRecord(f"{where}: step {len(steps) + 1}: `label` must be `input` with + or - for {STEP_END!r}")
        new = _steps(text[position:end])
        steps += new
        labels += [LABELS[sign]] * len(new)
        position = end + len(STEP_END)
        shift += len(STEP_END) - 1
    return steps, labels


def _steps(text: str) -> list[str]:
    """One marked step, or two if it states the answer."""
    body, phrase, answer = _STEP_NUMBER.sub("", without_calculations(text)).rpartition(ANSWER_PHRASE)
    body, answer = (body, answer) if phrase else (answer, "")
    steps = [_BLANK_LINE.sub("\n", body.strip())] if body.strip() else []
    return [*steps, f"{SECTIONS.answer_mark}{SECTIONS.separator}{answer.strip()}"] if answer.strip() else steps
