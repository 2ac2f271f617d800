"""PRM800K (Lightman et al. 2023, arXiv 2305.20050): human labels of the steps of a model's solutions, phases 1 and 2.

A record is a tree: at each step several completions were rated -1, 0 or +1, and one of them (or a step written by a
person) was chosen to go on with. It gives the chosen path and, for every other rated completion, the path up to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from reward_models.records import BadRecord
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.prompts import SECTIONS

# the mark with nothing after it on its line, as `step_text.cut_answer` finds it: some records glue it to a sentence
_ANSWER = re.compile(rf"\s*{re.escape(SECTIONS.answer_mark)}[ \t]*(?::|$)\s*", re.MULTILINE)
_BLANK_LINE = re.compile(r"\s*\n\s*\n\s*")
_TITLE_END = re.compile(r"\b(?:Mr|Mrs)\.$")
LABEL_OF_RATING = {-1: 0, 0: 1, 1: 1}  # the paper's appendix L: neutral counts as right


@dataclass(frozen=True)
class Path:
    """Steps so far with the ratings of people: 1, 0, -1, or None."""

    steps: tuple[str, ...] = ()
    ratings: tuple[int | None, ...] = ()

    @property
    def labels(self) -> tuple[int | None, ...]:
        return tuple(None if rating is None else LABEL_OF_RATING[rating] for rating in self.ratings)

    def then(self, text: str, rating: int | None) -> Path:
        """The path with one more completion, which is two steps if it holds the answer section."""
        steps, ratings = list(self.steps), list(self.ratings)
        new = clean(text)
        if new and steps and _TITLE_END.search(steps[-1]):  # "... Mr." is not the end of a step
            steps[-1] += " " + new.pop(0)
            ratings[-1] = rating
        return Path((*steps, *new), (*ratings, *[rating] * len(new)))

    def unrated(self) -> Path:
        return Path(self.steps, (None,) * len(self.steps))


def clean(text: str) -> list[str]:
    """The steps in one completion: blank lines inside a step go, the answer section becomes a step of its own."""
    head, *tail = _ANSWER.split(text.strip(), maxsplit=1)
    steps = [_BLANK_LINE.sub("\n", head.strip())] if head.strip() else []
    return [*steps, f"{SECTIONS.answer_mark}{SECTIONS.separator}{tail[0].strip()}"] if tail else steps


def read_prm800k(rows: Iterable[Row], quality_control: bool = True) -> Iterator[Solution]:
    """Solutions with step labels: of each record the chosen path, then a path for each other rated completion.

    In the latter only the last completion carries its label, because the chosen path has those before it. `complete` is
    a chosen path that reaches an answer with every step rated +1, or written by a person. `quality_control=False`
    leaves out records that served to screen and check the labellers.

    Raises:
        BadRecord: a record without the fields of PRM800K, or with a rating that is not -1, 0, 1 or null.
    """
    for row in rows:
        fields = row.fields
        try:
            problem, label = fields["question"]["problem"].strip(), fields["label"]
            screening = fields.get("is_quality_control_question") or fields.get("is_initial_screening_question")
            if screening and not quality_control:
                continue
            paths = list(_paths(label["steps"], row.where))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise BadRecord(f"{row.where}: not a PRM800K record ({type(error).__name__}: {error})") from None
        for number, (path, complete) in enumerate(paths):
            if path.steps:
                place = f"{row.where}/{number}"
                yield Solution(place, problem, problem, path.steps, path.labels, complete, ratings=path.ratings)


def _paths(steps: list[dict[str, Any]], where: str) -> Iterator[tuple[Path, bool]]:
    """(path, fit for fine-tuning), the chosen path first."""
    chosen, right, others = Path(), True, []
    for step in steps:
        completions = step.get("completions") or []
        texts = [(completion["text"], _rating(completion.get("rating"), where)) for completion in completions]
        choice = step.get("chosen_completion")
        if choice is None and len(texts) == 1 and not step.get("human_completion"):
            choice = 0
        others += [
            (chosen.unrated().then(text, rating), False)
            for index, (text, rating) in enumerate(texts)
            if index != choice and rating is not None
        ]
        if choice is not None:
            chosen = chosen.then(*texts[choice])
            right = right and completions[choice].get("rating") == 1
        elif step.get("human_completion"):
            chosen = chosen.then(step["human_completion"]["text"], None)
        else:
            break
    answered = bool(chosen.steps) and chosen.steps[-1].startswith(SECTIONS.answer_mark)
    yield chosen, right and answered
    yield from others


def _rating(rating: Any, where: str) -> int | None:
    if rating is not None and (isinstance(rating, bool) or rating not in LABEL_OF_RATING):
        raise BadRecord(f"{where}: rating {rating!r} is not allowed; use -1, 0, 1 or null")
    return rating
