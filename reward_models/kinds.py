"""What a kind of reward model is, said once: which labels it learns from, on which steps, and what its scores judge.

    register(Kind("first", "Model of the first step", "its first step", steps=True, outcomes=False, ...))

Training, evaluation, intervals, the model card, the command line and the stages of `rlhf_e2h` ask the object; none of
them knows a kind by its name. A pairwise model is not one: it is an ORM that was trained from pairs (`pairwise.py`).

| kind | learns from | its step scores | its score |
|---|---|---|---|
| orm | outcomes | only the last one is a judgement: of the whole solution | the last |
| prm | labels of steps | each judges its step | the minimum |
| oprm | both; the outcome is the label of the last step | each judges its step | the minimum |
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reward_models.records import Stepwise

IGNORED = -100.0  # the target of what is not trained; the Trainer's word for it

Score = TypeVar("Score")


@dataclass(frozen=True)
class Kind:
    """One kind of reward model. `step_targets` and `is_whole` are pure functions of a record."""

    name: str  # in step contracts, settings and the command line
    title: str  # heading of the model card
    about: str  # what it predicts, in a few words
    outcomes: bool  # learns from outcomes of solutions
    steps: bool  # learns from labels of steps; then each step's score is a judgement of that step
    aggregation: str  # by which the scores of steps become one, unless the step contract names another
    selection: str  # the figure of `evaluation.compare` that early stopping maximises
    step_targets: Callable[[Stepwise], list[float]]  # 0 to 1 for each step (S,), IGNORED where there is none
    is_whole: Callable[[Stepwise], bool]  # whether a record is one label for a whole solution, read at its end

    @property
    def unit(self) -> str:
        """What one of its judgements is about."""
        return "step" if self.steps else "outcome"

    def usable(self, record: Stepwise) -> bool:
        """Whether a record holds a label that this kind trains on."""
        return any(target != IGNORED for target in self.step_targets(record))

    def judgements(self, scores_S: Sequence[Score]) -> Sequence[Score]:
        """Those of the steps' scores that judge something: all, or the last for a model of outcomes."""
        return scores_S if self.steps else scores_S[-1:]

    def truths(self, record: Stepwise) -> Sequence[int | None]:
        """The labels that `judgements` are compared with; None where there is none."""
        return (record.labels or []) if self.steps else [record.outcome]


KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known by its name."""
    KINDS[kind.name] = kind
    return kind


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in KINDS:
        near = difflib.get_close_matches(str(name), KINDS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"kind {name!r} is not known; choose one of {', '.join(KINDS)}{meant}")
    return KINDS[name]


def has_no_step_label(record: Stepwise) -> bool:
    """Whether a record says nothing of single steps, so that an OPRM trains on it as an ORM does."""
    return all(label is None for label in record.labels or [])


def _outcome(record: Stepwise) -> float:
    return IGNORED if record.outcome is None else float(record.outcome)


def _of_outcome(record: Stepwise) -> list[float]:
    return [_outcome(record)] * len(record.steps)


def _of_steps(record: Stepwise) -> list[float]:
    labels = record.labels or [None] * len(record.steps)
    return [IGNORED if label is None else float(label) for label in labels]


def _of_both(record: Stepwise) -> list[float]:
    if has_no_step_label(record):
        return _of_outcome(record)
    *targets, last = _of_steps(record)
    return [*targets, last if record.outcome is None else _outcome(record)]


ORM = register(
    Kind(
        name="orm",
        title="Outcome reward model",
        about="whether the final answer is right",
        outcomes=True,
        steps=False,
        aggregation="last",
        selection="outcome_auc",
        step_targets=_of_outcome,
        is_whole=lambda record: True,
    )
)
# Of several step scores the paper takes the minimum for best-of-n (Sun et al. 2024, appendix L).
PRM = register(
    Kind(
        name="prm",
        title="Process reward model",
        about="whether each step is right",
        outcomes=False,
        steps=True,
        aggregation="min",
        selection="step_auc",
        step_targets=_of_steps,
        is_whole=lambda record: False,
    )
)
OPRM = register(
    Kind(
        name="oprm",
        title="Outcome and process reward model",
        about="both in one model",
        outcomes=True,
        steps=True,
        aggregation="min",
        selection="step_auc",
        step_targets=_of_both,
        is_whole=has_no_step_label,
    )
)
