"""Writing public solutions and step labels behind the firewall, in the files that a split of problems has.

The solutions fit for fine-tuning become the "problems" of train, one row each, with the solution as its label: so the
SFT stage reads them as it reads a split of MATH. Step labels go to `stepwise_easy.jsonl` and `stepwise_full.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_models.records import Stepwise, write_jsonl
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.firewall import EASY_STEPWISE, FULL_STEPWISE, is_sealed, write_split
from rlhf_e2h.data.levels import EASY, counts_by_level
from rlhf_e2h.data.solutions import Matcher, Solution, draw, without_repeats
from rlhf_e2h.prompts import SECTIONS


@dataclass(frozen=True)
class Choice:
    """Which solutions are kept."""

    easy_levels: Collection[int] = EASY
    per_problem: int = 0  # solutions of an original problem in each draw; 0: all
    draws: int = 1  # sets drawn one after the other, one for each epoch of the paper's training
    max_chars: int = 0  # of the solution; 0: no limit
    seed: int = 0


def write_solution_set(
    out: Path, source: str, read: Callable[[], Iterator[Solution]], matcher: Callable[[], Matcher], choice: Choice
) -> dict[str, Any]:
    """Write one set and return its summary.

    `read` and `matcher` start from the beginning at each call: the set is read once for solutions and twice for step
    labels, so that a million of the latter need no memory.
    """
    matched = matcher()
    unique = without_repeats(_short(matched.match(read()), choice.max_chars))
    complete = [solution for solution in unique if solution.complete]
    drawn = draw(complete, choice.per_problem, choice.draws, choice.seed)
    examples = [_example(s, source, n if choice.draws > 1 else None) for n, part in enumerate(drawn) for s in part]
    write_split(out, {"train": examples}, choice.easy_levels)
    labelled = {}
    for name, easy_only in ((EASY_STEPWISE, True), (FULL_STEPWISE, False)):
        solutions = without_repeats(_short(matcher().match(read()), choice.max_chars))
        rows = (
            _stepwise_row(s, source) for s in solutions if _has_labels(s) and not (easy_only and _sealed(s, choice))
        )
        labelled[name] = write_jsonl(out / name, rows)
    return {
        "source": source,
        "easy_levels": list(choice.easy_levels),
        "matching": matched.report(),
        "solutions": {"fit for fine-tuning": len(complete), "in each draw": [len(part) for part in drawn]},
        "counts": {"train": counts_by_level(examples, choice.easy_levels)},
        "step records": labelled,
    }


def _short(solutions: Iterator[Solution], max_chars: int) -> Iterator[Solution]:
    return (s for s in solutions if not max_chars or sum(map(len, s.steps)) <= max_chars)


def _example(solution: Solution, source: str, number: int | None) -> Example:
    text = SECTIONS.separator.join(solution.steps)
    solution_id = solution.solution_id if number is None else f"{solution.solution_id}#{number}"
    return Example(solution_id, solution.problem, solution.level, "", SECTIONS.section_answer(text) or "", text, source)


def _has_labels(solution: Solution) -> bool:
    return solution.labels is not None and any(label is not None for label in solution.labels)


def _sealed(solution: Solution, choice: Choice) -> bool:
    return is_sealed("train", solution.level, choice.easy_levels)


def _stepwise_row(solution: Solution, source: str) -> dict[str, Any]:
    labels = list(solution.labels or ())
    extra: dict[str, Any] = {"level": solution.level, "source": source}
    if solution.ratings is not None:
        extra["ratings"] = list(solution.ratings)
    if solution.first_error is not None:
        extra["first_error"] = solution.first_error
    return Stepwise(solution.problem, list(solution.steps), labels, extra=extra).to_row()
