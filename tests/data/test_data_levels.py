"""Levels, duplicates and sampling by stratum."""

from __future__ import annotations

import pytest

from rlhf_e2h.data.example import Example
from rlhf_e2h.data.levels import (
    apportion,
    band,
    counts_by_level,
    drop_duplicates,
    parse_level,
    take_per_level,
    take_stratified,
)


def example(problem_id: str, level: int | None = 1, subject: str = "Algebra", problem: str = "") -> Example:
    return Example(problem_id, problem or problem_id, level, subject, "1", "one", "test")


@pytest.mark.parametrize(
    ("value", "level"),
    [("Level 3", 3), (3, 3), ("3", 3), (" level 5 ", 5), ("Level ?", None), (None, None), ("", None), ("?", None)],
)
def test_parse_level(value: object, level: int | None) -> None:
    assert parse_level(value) == level


@pytest.mark.parametrize("value", [0, 6, "Level 6", "hard", -1, 2.5, True, "Level 33", "Level", [3]])
def test_parse_level_refuses(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not allowed; use 1 to 5"):
        parse_level(value)


def test_band() -> None:
    assert [band(level) for level in (1, 3, 4, 5, None)] == ["easy", "easy", "hard", "hard", "unknown"]
    assert band(2, easy_levels=[1]) == "hard"


def test_counts_by_level() -> None:
    counts = counts_by_level([example("a", 1), example("b", 4), example("c", 5), example("d", None)])
    assert counts == {"1": 1, "2": 0, "3": 0, "4": 1, "5": 1, "none": 1, "easy": 1, "hard": 2, "all": 4}


def test_duplicates_go_from_train_and_never_from_test() -> None:
    test = [example("t0", problem="Find  X"), example("t1", problem="Find  X")]
    train = [example("a", problem="find x"), example("b", problem="new"), example("c", problem="new")]
    (kept_test, kept_train), dropped = drop_duplicates([test, train])
    assert [e.problem_id for e in kept_test] == ["t0", "t1"]
    assert [e.problem_id for e in kept_train] == ["b"]
    assert [(d.dropped, d.kept, d.kind) for d in dropped] == [("a", "t0", "spacing or case"), ("c", "b", "exact")]


def test_apportion_by_largest_remainder() -> None:
    # 10 of 7:5:3 seats: exact shares 4.67, 3.33, 2.00; the one seat left goes to the largest remainder.
    assert apportion({"a": 7, "b": 5, "c": 3}, 10) == {"a": 5, "b": 3, "c": 2}
    assert apportion({"a": 7, "b": 5}, 0) == {"a": 0, "b": 0}
    assert apportion({"a": 1, "b": 1, "c": 2}, 4) == {"a": 1, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="cannot take 5 of 4 problems"):
        apportion({"a": 4}, 5)


def test_stratified_sample_keeps_the_mix_and_ignores_row_order() -> None:
    examples = [example(f"{level}{i}", level) for level in (1, 2, 5) for i in range(10 * level)]
    taken, rest = take_stratified(examples, 16, seed=3)
    assert [sum(e.level == level for e in taken) for level in (1, 2, 5)] == [2, 4, 10]
    assert len(rest) == 64 and not {e.problem_id for e in taken} & {e.problem_id for e in rest}
    again, _ = take_stratified(examples[::-1], 16, seed=3)
    assert {e.problem_id for e in again} == {e.problem_id for e in taken}
    other, _ = take_stratified(examples, 16, seed=4)
    assert {e.problem_id for e in other} != {e.problem_id for e in taken}


def test_take_per_level() -> None:
    examples = [example(f"{level}{s}{i}", level, s) for level in range(1, 6) for s in "AB" for i in range(5)]
    taken, rest = take_per_level(examples, [4, 0, 2, 0, 10], seed=0)
    cells = [sum(e.level == level and e.subject == s for e in taken) for level in range(1, 6) for s in "AB"]
    assert cells == [2, 2, 0, 0, 1, 1, 0, 0, 5, 5]
    assert len(rest) == 50 - 16
    with pytest.raises(ValueError, match="asked for 11 problems of level 5, but only 10"):
        take_per_level(examples, [0, 0, 0, 0, 11], seed=0)
    with pytest.raises(ValueError, match="give five numbers"):
        take_per_level(examples, [1, 2], seed=0)
