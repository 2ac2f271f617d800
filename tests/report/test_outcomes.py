"""Reading outcomes: slices, pairing, and bad rows named by file and line."""

from __future__ import annotations

import pytest

from reward_models.records import BadRecord, write_jsonl
from rlhf_e2h.report.outcomes import Condition, Outcomes, read_outcomes

GOOD = {
    "policy": "base", "decoding": "greedy", "reward_model": None, "labels": "none", "samples": 1,
    "problem_id": "a", "level": 4, "correct": 1.0,
}  # fmt: skip
BASE = Condition("base", "greedy", None, "none", 1)


def test_reads_seeds_and_levels(tmp_path):
    write_jsonl(tmp_path / "0.jsonl", [GOOD, GOOD | {"problem_id": "b", "level": 1, "correct": 0.25}])
    write_jsonl(tmp_path / "7.jsonl", [GOOD | {"correct": False}])
    outcomes = read_outcomes([(0, tmp_path / "0.jsonl"), (7, tmp_path / "7.jsonl")])
    assert outcomes.conditions == [BASE] and outcomes.seeds == [0, 7]
    assert outcomes.correct[BASE] == {0: {"a": 1.0, "b": 0.25}, 7: {"a": 0.0}}
    assert outcomes.problems([BASE], "all", [0]) == ["a", "b"]
    assert outcomes.problems([BASE], "all", [0, 7]) == ["a"]  # what every seed answered
    assert outcomes.problems([BASE], "easy", [0]) == ["b"]
    assert outcomes.problems([BASE], "4", [0]) == ["a"]


def test_stack_is_conditions_problems_seeds():
    outcomes = Outcomes()
    for seed, policy, problem, correct in [(0, "x", "a", 1), (0, "x", "b", 0), (1, "x", "a", 0.5), (1, "x", "b", 0.25)]:
        outcomes.add(GOOD | {"policy": policy, "problem_id": problem, "correct": correct}, seed)
    stack = outcomes.stack(outcomes.conditions, ["a", "b"], [0, 1])
    assert stack.tolist() == [[[1, 0.5], [0, 0.25]]]


def test_a_problem_without_level_counts_for_all_only():
    outcomes = Outcomes()
    outcomes.add(GOOD | {"level": None}, 0)
    slices = {level: outcomes.problems([BASE], level, [0]) for level in ("easy", "hard", "4", "all")}
    assert slices == {"easy": [], "hard": [], "4": [], "all": ["a"]}


def test_easy_levels_can_be_others():
    outcomes = Outcomes(easy_levels=(1, 2, 3, 4))
    outcomes.add(GOOD, 0)
    assert outcomes.problems([BASE], "easy", [0]) == ["a"] and outcomes.problems([BASE], "hard", [0]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"correct": 1.5}, "correct is 1.5"),
        ({"correct": None}, "correct is None"),
        ({"labels": "hard"}, "allowed: easy, full, none"),
        ({"level": 6}, "level is 6"),
        ({}, "occurs twice for base, greedy"),
        ({"policy": "other", "level": 2}, "has level 2 here and 4 before"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, words):
    file = tmp_path / "outcomes.jsonl"
    write_jsonl(file, [GOOD, GOOD | change])
    with pytest.raises(BadRecord, match=rf"outcomes.jsonl:2: .*{words}"):
        read_outcomes([(0, file)])


def test_nothing_evaluated(tmp_path):
    write_jsonl(tmp_path / "outcomes.jsonl", [])
    with pytest.raises(ValueError, match="run `evaluate` first"):
        read_outcomes([(0, tmp_path / "outcomes.jsonl")])
