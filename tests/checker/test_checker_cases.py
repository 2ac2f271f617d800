"""Verdicts on tables of cases: our own, and the shared bank where it is present."""

import json
import os
from pathlib import Path

import pytest
from checker_cases import ROWS

from rlhf_e2h.checker import CheckerPool, equal

BANK = Path(os.environ.get("E2H_CHECKER_CASES", Path(__file__).parents[3] / "shared/checker/cases_open.jsonl"))


@pytest.fixture(scope="module")
def pool():
    with CheckerPool(timeout=5.0) as pool:
        yield pool


@pytest.mark.parametrize("topic", sorted({row[0] for row in ROWS}))
def test_own_cases(pool, topic):
    rows = [row[1:] for row in ROWS if row[0] == topic]
    verdicts = pool.check([(gold, answer) for gold, answer, _ in rows])
    wrong = [(*row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if row[2] != verdict.equal]
    assert not wrong


def test_verdict_does_not_depend_on_which_side_is_gold(pool):
    rows = [row for row in ROWS if row[2]]
    there = pool.check([(gold, answer) for _, gold, answer, _ in rows])
    back = pool.check([(answer, gold) for _, gold, answer, _ in rows])
    assert [row for row, a, b in zip(rows, there, back, strict=True) if a.equal != b.equal] == []


@pytest.mark.skipif(not BANK.is_file(), reason="the shared case bank is not here")
def test_open_case_bank(pool):
    cases = [json.loads(line) for line in BANK.read_text(encoding="utf-8").splitlines()]
    verdicts = pool.check([(case["gold"], case["prediction"]) for case in cases])
    core = [
        (case["expected"], verdict.equal)
        for case, verdict in zip(cases, verdicts, strict=True)
        if not case["contested"] and case["category"] != "adversarial"
    ]
    adversarial = [v for c, v in zip(cases, verdicts, strict=True) if c["category"] == "adversarial"]
    assert sum(expected == found for expected, found in core) / len(core) >= 0.995
    assert core.count((False, True)) <= 0.002 * sum(not expected for expected, _ in core)
    assert core.count((True, False)) <= 0.008 * sum(expected for expected, _ in core)
    assert not any(verdict.equal for verdict in adversarial)
    assert not any(verdict.reason == "timeout" for verdict in verdicts)


@pytest.mark.parametrize(
    ("gold", "answer", "expected", "reason"),
    [
        (r"\text{Evelyn}", r"\text{Evelyn}", True, "string"),
        (r"\dfrac{1}{2}", r"$\frac12$", True, "number"),
        ("0.25", r"\frac14", True, "number"),
        ("x+1", "1+x", True, "symbolic"),
        ("(1,2]", r"1<x\le2", True, "symbolic"),
        ("5", "6", False, "different"),
        ("x+1", "x+2", False, "different"),
        ("5", "no idea at all", False, "unparsable"),
        ("5", r"\unknown{5}", False, "unparsable"),
        ("5", "", False, "no_answer"),
        ("5", r"so \boxed{}", False, "no_answer"),
        ("5", None, False, "no_answer"),
        ("5", "9^{9^{9^9}}", False, "refused"),
    ],
)
def test_reasons(gold, answer, expected, reason):
    assert equal(gold, answer) == (expected, reason)


def test_several_boxes_are_read_as_the_gold_answer_asks():
    text = r"\boxed{1}, \boxed{2} and \boxed{3}"
    assert equal("3", text).equal
    assert equal(r"\{1,2,3\}", text).equal
    assert not equal("2", text).equal
    assert not equal(r"\{1,2\}", text).equal
    assert not equal("4", r"\boxed{4}, but in fact it is \boxed{5}").equal
    assert not equal("4, 5", r"\boxed{4}, but in fact it is \boxed{5}").equal


@pytest.mark.parametrize(
    "hedge", [r"\boxed{1,2,3}", r"\boxed{3 = 4}", r"\boxed{x = 4 = 3}", r"\boxed{3 \text{ or } 4}"]
)
def test_a_hedge_is_no_answer(hedge):
    assert not equal("3", hedge).equal
