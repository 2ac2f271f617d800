"""Single steps as targets of fine-tuning, as Sun et al. 2024 train on PRM800K: each step that a person rated +1.

The loss is on that step alone, given the problem and the chosen steps before it. So a step of a solution that later
goes wrong is learnt from, and a step rated 0 is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_e2h.prompts import SECTIONS, TextFormat

GOOD = 1  # the rating of a step that is learnt


@dataclass(frozen=True)
class StepTarget:
    """One step to learn and what comes before it."""

    problem: str
    prefix: tuple[str, ...]
    step: str
    level: int | None = None

    def row(self, text_format: TextFormat = SECTIONS) -> dict[str, Any]:
        """`prompt`, `completion` and `ends`: whether the text is over with this step, which is so for an answer.

        The separator goes with the step that it closes, so that step and separator are encoded as they are sampled.
        """
        before = "".join(step + text_format.separator for step in self.prefix)
        answer = SECTIONS.section_answer(self.step) if SECTIONS.opens_answer(self.step) else None
        completion = self.step + text_format.separator if answer is None else text_format.answer_step(answer)
        prompt = text_format.prompt(self.problem) + text_format.training_text(before)
        row = {"prompt": prompt, "completion": completion, "ends": answer is not None}
        return {**row, "end": text_format.end} if text_format.end else row


def step_targets(rows: Iterable[Mapping[str, Any]]) -> Iterator[StepTarget]:
    """The steps rated +1 of Stepwise rows with `ratings`; each (problem, prefix, step) once, in order."""
    seen: set[bytes] = set()
    for row in rows:
        steps = tuple(row["steps"])
        for index, rating in enumerate(row.get("ratings") or ()):
            text = "\0".join([row["problem"], *steps[: index + 1]])
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if rating == GOOD and digest not in seen:
                seen.add(digest)
                yield StepTarget(row["problem"], steps[:index], steps[index], row.get("level"))
