"""Tests as labels: reading APPS, comparing outputs, strict and average accuracy, best-of-n over all subsets."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_models.records import BadRecord
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.coding.compare import same_output, same_result
from rlhf_e2h.coding.measure import expected_best_of_n
from rlhf_e2h.coding.pool import ProgramPool, run_tests
from rlhf_e2h.coding.sandbox import SandboxUnavailable, run_program
from rlhf_e2h.data.apps import Tests, is_tests, iter_apps, read_apps
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.samples.answer_pool import answer_pool

SUMS = Tests(("1 2\n", "3 4\n", "5 5\n", "0 0\n"), ("3\n", "7\n", "10\n", "0\n"))


@pytest.fixture
def isolation() -> None:
    try:
        run_program("pass")
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("3\n", "3", True),
        ("1 2\n3\n", "1  2 \n\n3\n", True),
        ("1 2 3\n", "1 2\n3\n", False),  # lines count
        ("YES", "Yes", False),
        ("0.5", "0.5000004", True),
        ("0.5", "0.501", False),
        ("1", "1.0", False),  # a whole number must be one
        ("1e3", "1000", True),
        (["a", "b"], "a\nb\n", True),
        ("", "\n", True),
        ("3", "", False),
        ("e", "f", False),
    ],
)
def test_same_output(expected: Any, printed: str, same: bool) -> None:
    assert same_output(expected, printed) is same


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (3, "3", True),
        ([3], "3", True),  # APPS wraps results
        ([1, 2], "[1, 2]", True),
        ([[1, 2]], "[1, 2]", True),
        (0.3, "0.30000000000000004", True),
        (True, "1", False),
        ("3", "3", False),
        (3, "debug\n3", True),  # what the function printed comes first
        (3, "three", False),
        (3, "", False),
    ],
)
def test_same_result(expected: Any, printed: str, same: bool) -> None:
    assert same_result(expected, printed) is same


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("print(sum(map(int, input().split())))", (True, "tests", 1.0)),
        ("a, b = input().split()\nprint(int(a) + int(b) if a != '5' else 0)", (False, "wrong", 0.75)),
        ("a, b = map(int, input().split())\nprint(a + b if a else 1 / a)", (False, "error", 0.75)),
        ("print(0)", (False, "wrong", 0.25)),
        ("no program", (False, "error", 0.0)),
    ],
)
def test_strict_and_average(isolation: None, program: str, verdict: tuple[bool, str, float]) -> None:
    assert tuple(run_tests(program, SUMS)) == verdict


@pytest.mark.parametrize(
    ("program", "equal"),
    [
        ("def add(a, b):\n    return a + b", True),
        ("class Solution:\n    def add(self, a, b):\n        return a + b", True),
        ("def add(a, b):\n    print('7')\n    return a - b", False),
        ("print(7)", False),
    ],
)
def test_called_functions(isolation: None, program: str, equal: bool) -> None:
    assert run_tests(program, Tests(([3, 4], [0, 1]), (7, [1]), "add")).equal is equal


def test_pool_keeps_order_and_runs_nothing_twice(isolation: None) -> None:
    right, wrong, tests = "print(sum(map(int, input().split())))", "print(3)", SUMS.to_json()
    with ProgramPool(workers=2) as pool:
        verdicts = pool.check([(tests, wrong), (tests, None), (tests, right), (tests, wrong)])
        assert [(v.equal, v.passed) for v in verdicts] == [(False, 0.25), (False, 0.0), (True, 1.0), (False, 0.25)]
        assert verdicts[1].reason == "no_answer"


def test_labels_choose_who_judges() -> None:
    assert isinstance(answer_pool({"p": Label("p", SUMS.to_json(), "", "test")}), ProgramPool)
    with answer_pool({"p": Label("p", "\\frac{1}{2}", "", "test")}) as pool:
        assert isinstance(pool, CheckerPool)


def test_rows_of_apps() -> None:
    rows = [
        {"question": "Add.", "difficulty": "interview", "solutions": '["print(1)", "1"]', "starter_code": "def f(a):",
         "input_output": '{"inputs": [[1]], "outputs": [[1]], "fn_name": "f"}', "problem_id": 7},
        {"question": "No tests.", "difficulty": "introductory", "solutions": '["1"]', "input_output": ""},
        {"question": "No solution.", "difficulty": "competition", "solutions": "",
         "input_output": '{"inputs": ["1"], "outputs": ["1"]}'},
    ]  # fmt: skip
    intake = Intake(no_answer="drop")
    train = list(read_apps((Row(f"a:{i}", row) for i, row in enumerate(rows)), "train", intake))
    assert [(e.problem_id, e.level, e.subject) for e in train] == [("apps-train-7", 4, "interview")]
    assert train[0].problem == "Add.\n\ndef f(a):\n\nWrite the function f."
    assert train[0].solution == "# Answer\n\n1"  # the shortest
    assert is_tests(train[0].answer) and Tests.from_json(train[0].answer) == Tests(([1],), ([1],), "f")
    assert intake.counts["no answer"] == 2
    test = list(read_apps((Row(f"b:{i}", row) for i, row in enumerate(rows)), "test", Intake(no_answer="drop")))
    assert [e.problem_id for e in test] == ["apps-test-7", "apps-test-0002"]  # a test problem needs no solution


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"difficulty": "hard"}, "a:1: difficulty 'hard' is not allowed; use one of introductory, interview, compet"),
        ({"difficulty": None}, "a:1: the difficulty is unknown; correct the row, or set unknown_level=drop"),
        ({"input_output": "{"}, "a:1: input_output is not JSON"),
        ({"input_output": "[]"}, "a:1: the problem has no tests; correct the row, or set no_answer=drop"),
        ({"input_output": '{"inputs": ["1"], "outputs": []}'}, "a:1: 1 inputs and 0 outputs"),
        ({"input_output": '{"inputs": [], "outputs": [], "fn_name": "x; import os"}'}, "'x; import os' is not a name"),
        ({"solutions": '"print(1)"'}, "a:1: solutions must be a list of programs"),
    ],
)
def test_bad_rows_of_apps(change: dict[str, Any], message: str) -> None:
    row = {"question": "q", "difficulty": "interview", "solutions": "[]", "input_output": ""} | change
    with pytest.raises(BadRecord, match=message.replace("[", r"\[")):
        list(read_apps([Row("a:1", row)], "train", Intake()))


def test_original_layout_of_apps(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "0003"
    folder.mkdir(parents=True)
    (folder / "question.txt").write_text("Print one.")
    (folder / "metadata.json").write_text('{"difficulty": "introductory"}')
    (folder / "input_output.json").write_text('{"inputs": [""], "outputs": ["1"]}')
    (folder / "solutions.json").write_text('["print(1)"]')
    (example,) = read_apps(iter_apps(tmp_path / "train"), "train", Intake())
    assert (example.problem_id, example.level, example.solution) == ("apps-train-0003", 1, "# Answer\n\nprint(1)")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no question\.txt below this folder"):
        list(iter_apps(tmp_path / "empty"))


@pytest.mark.slow
def test_shipped_problems_are_solved_by_their_own_solutions(isolation: None) -> None:
    for side in ("train", "test"):
        rows = list(iter_apps(ASSETS / "programs" / f"{side}.jsonl"))
        for example, row in zip(read_apps(rows, side, Intake()), rows, strict=True):
            for program in json.loads(row.fields["solutions"]):
                assert run_tests(program, Tests.from_json(example.answer)).equal, (row.where, program)


def test_expected_best_of_n_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (6, 5)) / 4
    scores = rng.integers(0, 3, (6, 5)).astype(float)  # with ties
    for n in range(1, 6):
        subsets = list(itertools.combinations(range(5), n))
        by_hand = [
            np.mean([values[p, max(s, key=lambda k, p=p: (scores[p, k], -k))] for s in subsets]) for p in range(6)
        ]
        np.testing.assert_allclose(expected_best_of_n(values, scores, n), by_hand)
    with pytest.raises(ValueError, match="n is 6; with 5 samples"):
        expected_best_of_n(values, scores, 6)
