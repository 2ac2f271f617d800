"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): `question`, and `answer` or `solution` that ends in `#### 72`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rlhf_e2h.data.example import Example
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.intake import NO_ANSWER, NO_LEVEL, Intake
from rlhf_e2h.data.own_rows import given_id
from rlhf_e2h.data.sources import Source

_CALCULATION = re.compile(r"<<[^<>]*>>")
_ANSWER = re.compile(r"\n?\s*####\s*(.+?)\s*$", re.DOTALL)


def read_gsm8k(rows: Iterable[Row], origin: str, intake: Intake, step_levels: Sequence[int] = ()) -> Iterator[Example]:
    """Examples from GSM8K rows, in the original files (the solution is called `answer`) or with a `solution` field.

    Calculator notes (`<<48/2=24>>`) and thousands commas in answers go. GSM8K has no levels:
    `step_levels` gives each problem that of `level_of_steps`, `intake.default_level` gives all the same (the paper
    counts GSM8K as easy: 1), otherwise its rule for unknown levels applies.

    Raises:
        BadRecord: a field is missing or empty, or a flaw that `intake` does not let pass.
    """
    for index, row in enumerate(rows):
        problem, text = row.text("question", "problem"), row.text("solution", "answer")
        solution, answer = split_answer(text)
        level = (
            level_of_steps(solution, step_levels) if step_levels else intake.level(row.fields.get("level"), row.where)
        )
        if level is None and not intake.passes(
            NO_LEVEL, row.where, "GSM8K rows have no level (default_level gives one)"
        ):
            continue
        if not answer and not intake.passes(NO_ANSWER, row.where, "the solution has no answer after '####'"):
            continue
        problem_id = given_id(row, ("problem_id",)) or f"gsm8k-{origin}-{index:05d}"
        if intake.is_new(problem_id, row.where):
            yield Example(problem_id, problem, level, "GSM8K", answer, solution, "gsm8k", origin)


def level_of_steps(solution: str, most: Sequence[int]) -> int:
    """1 to 5 by the number of steps, of which a line is one; `most` are those of levels 1 to 4.

    Hase et al. 2024 (arXiv 2401.06751) measure the hardness of GSM8K so.
    """
    steps = sum(bool(line.strip()) for line in solution.splitlines())
    return 1 + sum(steps > bound for bound in most)


def split_answer(text: str) -> tuple[str, str]:
    """(solution without calculator notes and answer line, answer without thousands commas; empty if there is none)."""
    clean = without_calculations(text)
    match = _ANSWER.search(clean)
    if match is None:
        return clean.strip(), ""
    return clean[: match.start()].strip(), match[1].replace(",", "")


def without_calculations(text: str) -> str:
    """The text without calculator notes such as `<<48/2=24>>`."""
    return _CALCULATION.sub("", text)


SOURCE = Source(
    "gsm8k",
    problems=lambda rows, origin, intake, settings: read_gsm8k(rows, origin, intake, settings.step_levels),
    step_levels=True,
    counts=(7_000, 473, 1_319),
)
