"""MATH (Hendrycks et al. 2021, arXiv 2103.03874), from any of the forms in which it is passed around.

Fields: `problem`, `solution`, `level` (3, "3" or "Level 3"), `subject` or `type`; the answer is the content of the
last `\\boxed{}` of the solution. Also read: the openai/prm800k `math_splits` files (with `unique_id`), the original
folder of JSON files (`train/algebra/1.json`), hub mirrors, and rows of your own (see own_rows.py). A row needs no
solution if it has an answer: sampling, RL and evaluation work with it, fine-tuning leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from rlhf_e2h.checker.extract import boxes
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.intake import NO_ANSWER, NO_LEVEL, Intake
from rlhf_e2h.data.own_rows import answer_of, given_id, problem_text, solution_of
from rlhf_e2h.data.sources import Source


def read_math(
    rows: Iterable[Row], origin: str, intake: Intake, source: str = "math", answer_field_first: bool = False
) -> Iterator[Example]:
    """Examples from MATH rows; `origin` is "train" or "test".

    Ids: `problem_id` or `unique_id` where the row has one, the path below the root in the original layout, else
    `math-train-00012` with the row's number. `answer_field_first` prefers a row's own `answer` over the box (for rows
    that are not MATH); otherwise the field is used where there is no box.

    Raises:
        BadRecord: text missing or empty, a level outside 1-5, or a flaw that `intake` does not let pass.
    """
    for index, row in enumerate(rows):
        problem, solution = problem_text(row), solution_of(row)
        level = intake.level(row.fields.get("level"), row.where)
        if level is None and not intake.passes(NO_LEVEL, row.where, "the level is unknown"):
            continue
        answer = _answer(row, solution, answer_field_first)
        missing = "the solution has no answer in a \\boxed{}" if solution else "neither an answer nor a solution"
        if not answer and not intake.passes(NO_ANSWER, row.where, missing):
            continue
        problem_id = _problem_id(row, f"{source}-{origin}-{index:05d}")
        if not intake.is_new(problem_id, row.where):
            continue
        subject = row.optional_text("subject", "type")
        yield Example(problem_id, problem, level, subject, answer, solution, source, _origin(problem_id, origin))


def _answer(row: Row, solution: str, field_first: bool) -> str:
    own = answer_of(row)
    boxed = last_boxed(solution) or ""
    return (own or boxed) if field_first else (boxed or own)


def _problem_id(row: Row, numbered: str) -> str:
    if given := given_id(row):
        return given
    if row.where.endswith(".json"):  # one row a file: train/algebra/1.json
        return "/".join(PurePosixPath(row.where).parts[-3:])
    return numbered


def _origin(problem_id: str, origin: str) -> str:
    """math_splits mixes both sides of MATH in one file, but its ids (test/algebra/1.json) keep them apart."""
    side = problem_id.partition("/")[0]
    return side if side in ("train", "test") else origin


def last_boxed(text: str) -> str | None:
    """Content of the last outermost box of a solution; None without one, or where it is never closed."""
    found = boxes(text)
    return found[-1].content if found else None


SOURCE = Source(
    "math",
    problems=lambda rows, origin, intake, settings: read_math(rows, origin, intake),
    counts=(11_500, 500, 500),  # the paper's split
)
