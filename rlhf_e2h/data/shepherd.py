"""Math-Shepherd's rows (see reward_models/shepherd.py) as solutions of problems of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reward_models.conversational import FIRST_STEP, cut_steps
from reward_models.records import BadRecord
from reward_models.shepherd import marked_steps
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.gsm8k import without_calculations
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.data.sources import Source


def read_shepherd(rows: Iterable[Row], tasks: tuple[str, ...] = ("MATH",)) -> Iterator[Solution]:
    """Solutions with step labels, of the given tasks (all of them if none is given), without calculator notes.

    Rows without a first step are skipped; a last step without a label (a truncated row) is dropped.

    Raises:
        BadRecord: `input` and `label` differ in more than the step ends.
    """
    for index, row in enumerate(rows):
        text, marked = (without_calculations(row.text(name)) for name in ("input", "label"))
        if (tasks and row.text("task") not in tasks) or not FIRST_STEP.search(text):
            continue
        try:
            problem, texts, labels = marked_steps(text, marked)
        except ValueError as error:
            raise BadRecord(f"{row.where}: {error}") from None
        steps, marks = cut_steps(texts, labels)
        if steps:
            yield Solution(f"shepherd-{index:06d}", problem, problem, tuple(steps), tuple(marks))


SOURCE = Source(
    "shepherd",
    solutions=lambda rows, settings: read_shepherd(rows, tuple(settings.tasks)),
    counts=(400_000, 0, 0),
    step_records=400_000,
)
