"""Difficulty levels, duplicates, and splitting: which problem goes to train, validation and test.

Every choice is made by the hash of seed and problem id, so it depends neither on the order of the source's rows nor on
answers, and adding a problem moves no other problem between the splits more than the counts demand.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf_e2h.data.example import Example

LEVELS = (1, 2, 3, 4, 5)
_LEVEL = re.compile(r"(?:level\s*)?([1-5])(?:\.0+)?", re.IGNORECASE)
EASY = (1, 2, 3)


def parse_level(value: Any) -> int | None:
    """A level from "Level 3", "3", 3 or 3.0; None from null, NaN, "" and "Level ?" (two rows of MATH have it).

    pandas writes whole numbers as 3.0, and a missing one as NaN, as soon as one row of the table has none.

    Raises:
        ValueError: anything else, such as level 0, 6 or "hard".
    """
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "?", "level ?", "none", "nan"):
        return None
    match = None if isinstance(value, bool) else _LEVEL.fullmatch(text)
    if match is None:
        raise ValueError(f"level {value!r} is not allowed; use 1 to 5, 'Level 1' to 'Level 5', or null if unknown")
    return int(match[1])


def band(level: int | None, easy_levels: Collection[int] = EASY) -> str:
    """ "easy", "hard", or "unknown" for a problem without a level."""
    if level is None:
        return "unknown"
    return "easy" if level in easy_levels else "hard"


def problem_key(text: str) -> str:
    """The problem text up to spacing and case; two problems with the same key are the same problem."""
    return "".join(text.split()).casefold()


@dataclass(frozen=True)
class Duplicate:
    """A problem that was dropped because `kept` has the same text ("exact"), or the same up to spacing and case."""

    dropped: str
    kept: str
    kind: str


def drop_duplicates(groups: Sequence[Sequence[Example]]) -> tuple[list[list[Example]], list[Duplicate]]:
    """Drop problems that occurred before, reading the groups in order; the first group (the test set) stays whole.

    So a train problem that equals a test problem is the one that goes. Returns the thinned groups and what was dropped.
    """
    first: dict[str, Example] = {}
    kept_groups: list[list[Example]] = []
    dropped = []
    for index, group in enumerate(groups):
        kept = []
        for example in group:
            earlier = first.setdefault(problem_key(example.problem), example)
            if earlier is example or index == 0:
                kept.append(example)
            else:
                kind = "exact" if earlier.problem == example.problem else "spacing or case"
                dropped.append(Duplicate(example.problem_id, earlier.problem_id, kind))
        kept_groups.append(kept)
    return kept_groups, dropped


def shuffle_rank(seed: int, problem_id: str) -> bytes:
    """A number in which problems are ordered at random, the same on every machine and in every order of the rows."""
    return hashlib.sha256(f"{seed}:{problem_id}".encode()).digest()


K = TypeVar("K", bound=Hashable)


def apportion(weights: Mapping[K, int], total: int) -> dict[K, int]:
    """Share `total` among strata in proportion to `weights`, each share at most its weight (largest remainders).

    Ties between remainders go to the heavier stratum, then to the first by name.

    Raises:
        ValueError: `total` is negative or more than the weights sum to.
    """
    available = sum(weights.values())
    if not 0 <= total <= available:
        raise ValueError(f"cannot take {total} of {available} problems; ask for 0 to {available}")
    if total == 0:
        return dict.fromkeys(weights, 0)
    # In integers: floor(weight * total / available) and its remainder.
    shares = {key: weight * total // available for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: (-(weights[key] * total % available), -weights[key], str(key)))
    for key in by_remainder[: total - sum(shares.values())]:
        shares[key] += 1
    return shares


def stratum(example: Example) -> tuple[int, str]:
    """The (level, subject) cell of a problem; level 0 stands for none."""
    return (example.level or 0, example.subject)


def take(
    examples: Sequence[Example], counts: Mapping[K, int], seed: int, key: Callable[[Example], K]
) -> tuple[list[Example], list[Example]]:
    """Take `counts[key]` examples at random from each stratum; returns (taken, rest), both in the given order.

    Raises:
        ValueError: a stratum has too few problems.
    """
    members: dict[K, list[Example]] = defaultdict(list)
    for example in examples:
        members[key(example)].append(example)
    chosen: set[str] = set()
    for name, count in counts.items():
        if count > len(members[name]):
            raise ValueError(
                f"asked for {count} problems of {name!r}, but only {len(members[name])} are there; lower it"
            )
        ranked = sorted(members[name], key=lambda example: shuffle_rank(seed, example.problem_id))
        chosen.update(example.problem_id for example in ranked[:count])
    return (
        [example for example in examples if example.problem_id in chosen],
        [example for example in examples if example.problem_id not in chosen],
    )


def take_stratified(examples: Sequence[Example], total: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Take `total` examples: levels in the proportion of the whole, and within a level the subjects; (taken, rest)."""
    by_level = apportion(Counter(example.level or 0 for example in examples), total)
    return take(examples, _subject_counts(examples, by_level), seed, stratum)


def _subject_counts(examples: Sequence[Example], by_level: Mapping[int, int]) -> dict[tuple[int, str], int]:
    cells = Counter(map(stratum, examples))
    counts: dict[tuple[int, str], int] = {}
    for level, count in by_level.items():
        counts.update(apportion({cell: n for cell, n in cells.items() if cell[0] == level}, count))
    return counts


def take_like(examples: Sequence[Example], model: Iterable[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Take as many examples of each (level, subject) as `model` has, the paper's rule for its validation set."""
    return take(examples, Counter(map(stratum, model)), seed, stratum)


def take_per_level(
    examples: Sequence[Example], per_level: Sequence[int], seed: int
) -> tuple[list[Example], list[Example]]:
    """Take `per_level[i]` examples of level i + 1, subjects in the proportion of the level; returns (taken, rest)."""
    check_per_level(per_level)
    available = Counter(example.level for example in examples)
    for level, count in zip(LEVELS, per_level, strict=True):
        if count > available[level]:
            raise ValueError(
                f"asked for {count} problems of level {level}, but only {available[level]} are there; lower it"
            )
    by_level = dict(zip(LEVELS, per_level, strict=True))
    return take(examples, _subject_counts(examples, by_level), seed, stratum)


def check_per_level(per_level: Sequence[int]) -> None:
    """Raise ValueError unless there are five counts of at least 0."""
    if len(per_level) != len(LEVELS) or any(count < 0 for count in per_level):
        raise ValueError(
            f"per-level counts {list(per_level)} are not allowed; give five numbers of at least 0, for levels 1 to 5"
        )


def counts_by_level(examples: Iterable[Example], easy_levels: Collection[int] = EASY) -> dict[str, int]:
    """Counts under "1" ... "5", "none", "easy", "hard" and "all"."""
    levels = Counter(example.level for example in examples)
    counts = {str(level): levels[level] for level in LEVELS} | {"none": levels[None]}
    for name in ("easy", "hard"):
        counts[name] = sum(n for level, n in levels.items() if band(level, easy_levels) == name)
    return counts | {"all": sum(levels.values())}


def choose(problems: list[dict[str, Any]], levels: list[int] | None, limit: int | None) -> list[dict[str, Any]]:
    """Problems of the wanted levels; a limit is filled level by level in turn, so that each keeps its share of it."""
    wanted = [p for p in problems if levels is None or p["level"] in levels]
    if limit is None or limit >= len(wanted):
        return wanted
    by_level: dict[Any, list[dict[str, Any]]] = {}
    for problem in wanted:
        by_level.setdefault(problem["level"], []).append(problem)
    queues = [list(reversed(group)) for group in by_level.values()]
    taken: list[dict[str, Any]] = []
    while len(taken) < limit:
        for queue in queues:
            if queue and len(taken) < limit:
                taken.append(queue.pop())
    order = {p["problem_id"]: i for i, p in enumerate(wanted)}
    return sorted(taken, key=lambda p: order[p["problem_id"]])
