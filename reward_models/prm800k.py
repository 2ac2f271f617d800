"""PRM800K (Lightman et al. 2023, arXiv 2305.20050): human labels of the steps of a model's solutions, phases 1 and 2.

A record is a tree: at each step several completions were rated -1, 0 or +1, and one of them (or a step written by a
person) was chosen to continue with. It gives the chosen path and, for every other rated completion, the path up to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reward_models.contract import PLAIN
from reward_models.conversational import BLANK_LINE
from reward_models.records import Stepwise, first_wrong

# the mark with nothing after it on its line, as `step_text.cut_answer` finds it: some records glue it to a sentence
_ANSWER = re.compile(rf"\s*{re.escape(PLAIN.answer_mark)}[ \t]*(?::|$)\s*", re.MULTILINE)
_TITLE_END = re.compile(r"\b(?:Mr|Mrs)\.$")
LABEL_OF_RATING = {-1: 0, 0: 1, 1: 1}  # Sun et al. 2024, appendix L: neutral counts as right


@dataclass(frozen=True)
class Path:
    """Steps so far with the ratings of people: 1, 0, -1, or None.

    `known` has a label for every step of which it can be said: also for those that another path rates, and 1 for those
    that a person wrote.
    """

    steps: tuple[str, ...] = ()
    ratings: tuple[int | None, ...] = ()
    known: tuple[int | None, ...] = ()

    @property
    def labels(self) -> tuple[int | None, ...]:
        return tuple(_label(rating) for rating in self.ratings)

    @property
    def first_error(self) -> int | None:
        """Index of the first wrong step, -1 if there is none, None if an unknown one could be it."""
        return first_wrong(self.known)

    def then(self, text: str, rating: int | None, by_person: bool = False) -> Path:
        """The path with one more completion, which is two steps if it holds the answer section."""
        steps, ratings, known = list(self.steps), list(self.ratings), list(self.known)
        new, label = clean(text), 1 if by_person else _label(rating)
        if new and steps and _TITLE_END.search(steps[-1]):  # "... Mr." is not the end of a step
            steps[-1] += " " + new.pop(0)
            ratings[-1], known[-1] = rating, label
        return Path((*steps, *new), (*ratings, *[rating] * len(new)), (*known, *[label] * len(new)))

    def unrated(self) -> Path:
        return Path(self.steps, (None,) * len(self.steps), self.known)


def _label(rating: int | None) -> int | None:
    return None if rating is None else LABEL_OF_RATING[rating]


def clean(text: str) -> list[str]:
    """The steps in one completion: blank lines inside a step go, the answer section becomes a step of its own."""
    head, *tail = _ANSWER.split(text.strip(), maxsplit=1)
    steps = [BLANK_LINE.sub("\n", head.strip())] if head.strip() else []
    return [*steps, f"{PLAIN.answer_mark}{PLAIN.separator}{tail[0].strip()}"] if tail else steps


def paths(row: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    """(path, fit for fine-tuning) of a tree, the chosen path first.

    The path continues with the chosen completion, else the human's, which has no rating, else the only one, as in the
    code of Sun et al. 2024. Of the other paths only the last completion has its rating, because the chosen path has
    those before it. Fit for fine-tuning is a chosen path that reaches an answer with every step rated +1, or written by
    a person.

    Raises:
        ValueError: a rating that is not -1, 0, 1 or null.
        KeyError, TypeError, AttributeError, IndexError: not a record of PRM800K.
    """
    chosen, right, others = Path(), True, []
    for step in row["label"]["steps"]:
        completions = step.get("completions") or []
        texts = [(completion["text"], _rating(completion.get("rating"))) for completion in completions]
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
            chosen = chosen.then(step["human_completion"]["text"], None, by_person=True)
        else:
            break
    answered = bool(chosen.steps) and chosen.steps[-1].startswith(PLAIN.answer_mark)
    yield chosen, right and answered
    yield from others


def _rating(rating: Any) -> int | None:
    if rating is not None and (isinstance(rating, bool) or rating not in LABEL_OF_RATING):
        raise ValueError(f"rating {rating!r} is not allowed; use -1, 0, 1 or null")
    return rating


def from_prm800k(row: Mapping[str, Any]) -> list[Stepwise]:
    """One record for each of `paths` that has a label; `first_error` where all steps up to it are known."""
    extra = {"source": "prm800k", "finish_reason": row["label"].get("finish_reason")}
    problem: str = row["question"]["problem"]
    found = [path for path, _ in paths(row) if any(label is not None for label in path.labels)]
    if not found:
        raise ValueError("no rated completion in this row")
    return [
        Stepwise(problem, list(path.steps), list(path.labels), None, {**extra, "first_error": path.first_error})
        for path in found
    ]
