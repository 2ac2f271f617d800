"""The three ways in which rows of a source become train, validation and test; pure functions on examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_e2h.data.example import Example
from rlhf_e2h.data.leaks import Leak, find_leaks
from rlhf_e2h.data.levels import (
    LEVELS,
    Duplicate,
    drop_duplicates,
    problem_key,
    take_like,
    take_per_level,
    take_stratified,
)
from rlhf_e2h.data.sources import Source


@dataclass
class Split:
    """Train, validation and test, with what was dropped on the way there."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    duplicates: list[Duplicate] = field(default_factory=list)
    too_long: int = 0

    def by_name(self) -> dict[str, list[Example]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Rules:
    """How validation is taken and which problems may train; test problems are never left out for their length."""

    seed: int = 0
    validation_size: int = 0
    validation_per_level: Sequence[int] = ()
    max_chars: int = 0  # of problem and of solution; 0: no limit

    def short(self, examples: Sequence[Example]) -> list[Example]:
        limit = self.max_chars
        return [e for e in examples if not limit or max(len(e.problem), len(e.solution)) <= limit]

    def take_validation(self, examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
        return take_some(examples, self.validation_size, self.validation_per_level, seed)


def take_some(
    examples: Sequence[Example], size: int, per_level: Sequence[int], seed: int
) -> tuple[list[Example], list[Example]]:
    """`per_level[i]` problems of level i + 1 if given, else `size` with the mix of the whole; returns (taken, rest)."""
    return take_per_level(examples, per_level, seed) if per_level else take_stratified(examples, size, seed)


def evenly(total: int) -> list[int]:
    """`total` shared over the five levels, the remainder to the first of them."""
    share, remainder = divmod(total, len(LEVELS))
    return [share + (index < remainder) for index in range(len(LEVELS))]


def split_made(source: Source, per_level: Mapping[str, Sequence[int]], seed: int) -> Split:
    """Disjoint sets of problems that a source makes, with the given counts by level.

    Test is made first, so that it stays as it is when other sizes change.
    """
    assert source.made is not None, f"{source.name} makes no problems"
    seen: set[str] = set()
    made = {}
    for offset, name in enumerate(("test", "validation", "train")):
        counts = dict(zip(LEVELS, per_level[name], strict=True))
        rows = source.made(counts, 3 * seed + offset, seen)
        seen.update(row["problem"] for row in rows)
        made[name] = [Example(**row | {"source": source.name, "origin": name}) for row in rows]
    return Split(made["train"], made["validation"], made["test"])


def split_files(train: Sequence[Example], test: Sequence[Example], rules: Rules) -> Split:
    """Test is the test file, whole; validation is taken from train.

    Raises:
        ValueError: a test problem has no level, so it could not be counted.
    """
    for example in test:
        if example.level is None:
            raise ValueError(f"test problem {example.problem_id!r} has no level; use unknown_level: drop")
    (kept_test, pool), dropped = drop_duplicates([test, train])
    short = rules.short(pool)
    validation, rest = rules.take_validation(short, rules.seed)
    return Split(rest, validation, kept_test, dropped, len(pool) - len(short))


def split_random(examples: Sequence[Example], test_size: int, test_per_level: Sequence[int], rules: Rules) -> Split:
    """One pool, shared out at random; test and validation hold problems with a level only."""
    (_, pool), dropped = drop_duplicates([[], examples])
    levelled = [example for example in pool if example.level]
    test, rest = take_some(levelled, test_size, test_per_level, rules.seed)
    rest += [example for example in pool if not example.level]
    short = rules.short(rest)
    validation, rest_short = rules.take_validation(short, rules.seed + 1)
    return Split(rest_short, validation, test, dropped, len(rest) - len(short))


def split_paper(examples: Sequence[Example], test_keys: Collection[str], rules: Rules) -> Split:
    """The paper's split of MATH: MATH500 is the test set, the other test problems train, save a validation set.

    `test_keys` are the `problem_key`s of MATH500. Validation comes from the original test side only, and has MATH500's
    count of every (level, subject) unless `rules` ask for other counts. Too long problems do not train.

    Raises:
        ValueError: a problem of `test_keys` is not among the examples.
    """
    missing = set(test_keys) - {problem_key(example.problem) for example in examples}
    if missing or not test_keys:
        raise ValueError(
            f"{len(missing)} of the {len(test_keys)} problems of the test subset are not among the {len(examples)} "
            "read; give both sides of MATH as train and test, and a file with the MATH500 problems as test_subset"
        )
    # The original test side first: where a MATH500 problem occurs on both sides, that one is meant.
    sides = [[example for example in examples if (example.origin == "test") is side] for side in (True, False)]
    test = _first_of_each([*sides[0], *sides[1]], test_keys)
    held_out = {example.problem_id for example in test}
    others = [[example for example in side if example.problem_id not in held_out] for side in sides]
    (test, *others), dropped = drop_duplicates([test, *others])
    test_side, train_side = map(rules.short, others)
    if rules.validation_size or rules.validation_per_level:
        validation, rest = rules.take_validation(test_side, rules.seed)
    else:
        validation, rest = take_like(test_side, test, rules.seed)
    too_long = sum(map(len, others)) - len(test_side) - len(train_side)
    return Split([*train_side, *rest], validation, test, dropped, too_long)


def _first_of_each(examples: Sequence[Example], keys: Collection[str]) -> list[Example]:
    first: dict[str, Example] = {}
    for example in examples:
        key = problem_key(example.problem)
        if key in keys:
            first.setdefault(key, example)
    return list(first.values())


def leaks_of(split: Split, threshold: float) -> list[Leak]:
    """Pairs of (train or validation, test) problems that resemble each other."""
    sides = ([*split.train, *split.validation], split.test)
    left, right = ([(example.problem_id, example.problem) for example in side] for side in sides)
    return find_leaks(left, right, threshold)


def without_near_duplicates(split: Split, threshold: float) -> Split:
    """The split without the train and validation problems that nearly equal a test problem.

    Problems that are the same but for numbers stay: their answers differ.
    """
    near = {leak.left_id: leak.right_id for leak in leaks_of(split, threshold) if leak.kind == "near"}
    train, validation = ([e for e in side if e.problem_id not in near] for side in (split.train, split.validation))
    dropped = [Duplicate(left, right, "near") for left, right in near.items()]
    return Split(train, validation, split.test, [*split.duplicates, *dropped], split.too_long)
