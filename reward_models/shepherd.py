"""Math-Shepherd (Wang et al. 2023, arXiv 2312.08935): step labels estimated from rollouts.

`input` is problem and solution in one text in which ` ки` (Cyrillic) ends every step; `label` is the same text with
+ or - there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reward_models.conversational import FIRST_STEP, labelled
from reward_models.records import Stepwise

STEP_END = "ки"
LABELS = {"+": 1, "-": 0}


def marked_steps(text: str, marked: str) -> tuple[str, list[str], list[int | None]]:
    """(problem, texts of the steps, their labels) of `input` and `label`; a last step without a mark was cut off.

    Raises:
        ValueError: there is no first step, or the two differ in more than the step ends.
    """
    first = FIRST_STEP.search(text)
    if first is None:
        raise ValueError("no 'Step 1:' in input, so problem and first step cannot be told apart")
    position, shift = first.start(), 0  # `marked` has one character where `text` has the two of the step end
    if marked[:position] != text[:position]:
        raise ValueError("`input` and `label` do not begin with the same problem, so they do not line up")
    steps: list[str] = []
    labels: list[int | None] = []
    while (end := text.find(STEP_END, position)) >= 0:
        sign = marked[end - shift : end - shift + 1]
        if not sign and not text[end:].strip(STEP_END + " \n"):
            break
        if marked[position - shift : end - shift] != text[position:end] or sign not in LABELS:
            raise ValueError(
                f"step {len(steps) + 1}: `label` must be `input` with + or - for {STEP_END!r}; its text is another, "
                f"or the mark {sign!r} is neither"
            )
        steps.append(text[position:end])
        labels.append(LABELS[sign])
        position = end + len(STEP_END)
        shift += len(STEP_END) - 1
    return text[: first.start()].strip(), steps, labels


def from_math_shepherd(row: Mapping[str, Any]) -> list[Stepwise]:
    """One record. "Step k: " prefixes go, "The answer is: X" becomes an answer step; its label is the outcome too."""
    problem, steps, labels = marked_steps(row["input"], row["label"])
    return [labelled(problem, steps, labels, {"source": "math-shepherd", "task": row.get("task")})]
