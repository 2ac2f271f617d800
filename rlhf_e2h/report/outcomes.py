"""What `evaluate` measured, as matrices: conditions x problems x seeds.

`outcomes.jsonl` has one row a condition and problem: policy, decoding, reward_model (or null), labels, samples,
problem_id, level (or null), correct (mean over subsamples, in [0, 1]). There is one file a seed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.records import BadRecord, iter_jsonl
from rlhf_e2h.data.levels import EASY, LEVELS

FIELDS = ("policy", "decoding", "reward_model", "labels", "samples", "problem_id", "level", "correct")
LABELS = ("easy", "full", "none")
SLICES = (*map(str, LEVELS), "easy", "hard", "all")
SUBJECT = "subject:"  # goes before a subject's name where it stands for a slice


class Condition(NamedTuple):
    """One row of the result table before it is split by level: how answers were made."""

    policy: str
    decoding: str
    reward_model: str | None
    labels: str  # the labels behind policy and reward model together: none, easy or full
    samples: int

    def text(self) -> str:
        """A readable name: `sft_easy, weighted vote by prm_easy, 16 samples`."""
        by = f" by {self.reward_model}" if self.reward_model else ""
        many = f", {self.samples} samples" if self.samples > 1 else ""
        return f"{self.policy}, {self.decoding.replace('_', ' ')}{by}{many}"


class Outcomes:
    """All outcomes of a run: `correct[condition][seed][problem_id]` in [0, 1], and the level of each problem."""

    def __init__(self, easy_levels: Collection[int] = EASY) -> None:
        self.easy_levels = frozenset(easy_levels)
        self.correct: dict[Condition, dict[int, dict[str, float]]] = {}
        self.level: dict[str, int | None] = {}
        self.subject: dict[str, str] = {}  # of problems that have one

    @property
    def conditions(self) -> list[Condition]:
        """In the order in which the evaluation wrote them."""
        return list(self.correct)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for by_seed in self.correct.values() for seed in by_seed})

    @property
    def subject_slices(self) -> list[str]:
        """A slice for each subject, if there are several."""
        names = sorted({self.subject[problem] for problem in self.level if problem in self.subject})
        return [SUBJECT + name for name in names] if len(names) > 1 else []

    def add(self, row: Mapping[str, Any], seed: int) -> None:
        """Take in one row.

        Raises:
            ValueError: a value that is not allowed, a problem twice, or a problem whose level changed.
        """
        correct, level, problem = row["correct"], row["level"], str(row["problem_id"])
        if not isinstance(correct, (int, float)) or not 0 <= correct <= 1:
            raise ValueError(f"correct is {correct!r}; expected a number between 0 and 1")
        if row["labels"] not in LABELS:
            raise ValueError(f"labels is {row['labels']!r}; allowed: {', '.join(LABELS)}")
        if level is not None and level not in LEVELS:
            raise ValueError(f"level is {level!r}; allowed: 1 to 5 or null")
        if self.level.setdefault(problem, level) != level:
            raise ValueError(f"problem {problem!r} has level {level} here and {self.level[problem]} before")
        condition = Condition(row["policy"], row["decoding"], row["reward_model"], row["labels"], int(row["samples"]))
        by_problem = self.correct.setdefault(condition, {}).setdefault(seed, {})
        if problem in by_problem:
            raise ValueError(f"problem {problem!r} occurs twice for {condition.text()} (seed {seed})")
        by_problem[problem] = float(correct)

    def in_slice(self, problem: str, level: str) -> bool:
        """Whether a problem counts for a slice of SLICES or a subject; one without a level counts for `all` only."""
        if level.startswith(SUBJECT):
            return self.subject.get(problem) == level.removeprefix(SUBJECT)
        number = self.level[problem]
        if level == "all":
            return True
        if number is None:
            return False
        if level in ("easy", "hard"):
            return (number in self.easy_levels) == (level == "easy")
        return str(number) == level

    def problems(self, conditions: Iterable[Condition], level: str, seeds: Sequence[int]) -> list[str]:
        """Sorted ids of the problems of a slice that every condition answered with every seed."""
        sets = [self.correct[condition][seed].keys() for condition in conditions for seed in seeds]
        common = set.intersection(*map(set, sets)) if sets else set()
        return sorted(problem for problem in common if self.in_slice(problem, level))

    def common_seeds(self, conditions: Iterable[Condition]) -> list[int]:
        """Seeds with which every condition was run."""
        return sorted(set.intersection(*(set(self.correct[condition]) for condition in conditions)))

    def stack(
        self, conditions: Sequence[Condition], problems: Sequence[str], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """correct_CPS of the given conditions, problems and seeds."""
        return np.array(
            [[[self.correct[c][seed][problem] for seed in seeds] for problem in problems] for c in conditions],
            dtype=np.float64,
        ).reshape(len(conditions), len(problems), len(seeds))


def read_outcomes(files: Iterable[tuple[int, Path]], easy_levels: Collection[int] = EASY) -> Outcomes:
    """Read (seed, outcomes.jsonl) pairs.

    Raises:
        BadRecord: a line that cannot be used, as `file:line: what is wrong`.
        ValueError: nothing was evaluated.
    """
    outcomes = Outcomes(easy_levels)
    names = []
    for seed, path in files:
        names.append(str(path))
        for number, row in enumerate(iter_jsonl(path, required=FIELDS), start=1):
            try:
                outcomes.add(row, seed)
            except ValueError as error:
                raise BadRecord(f"{path}:{number}: {error}") from None
    if not outcomes.correct:
        raise ValueError(f"no outcomes in {', '.join(names) or 'an empty list of evaluations'}; run `evaluate` first")
    return outcomes
