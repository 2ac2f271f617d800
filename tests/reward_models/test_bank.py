"""Reranking anyone's table; figures counted by hand."""

import json

import pytest

from reward_models.bank import build_bank, summarise, table
from reward_models.records import BadRecord


def row(problem, answer, correct, **scores):
    return {"problem_id": problem, "answer": answer, "correct": correct, **scores}


ROWS = [
    row("a", "5", False, score=0.1),
    row("a", "5", False, score=0.1),
    row("a", "7", True, score=0.9),
    row("a", None, False, score=0.99),
    row("b", "1", True, score=-1.0),
    row("b", "2", False, score=-2.0),
    row("b", "2", False, score=-2.0),
    row("b", "3", False, score=-9.0),
    row("b", "1", True, score=-3.0),
]


def test_figures_by_hand():
    bank = build_bank(ROWS)
    assert bank.left_out == 1 and bank.correct_PK.shape == (2, 4)
    summary = summarise(bank)
    assert summary["majority"]["4"] == 0.0
    assert summary["weighted_vote"]["4"] == 1.0  # 0.9 > 0.2; -1 > -4
    assert summary["best_of_n"]["4"] == 1.0  # the missing answer's 0.99 is passed over
    assert summary["mean"]["1"] == summary["pass_at_n"]["1"] == 0.25
    assert summary["pass_at_n"]["2"] == pytest.approx(0.5)  # one right of four: 1 - C(3,2)/C(4,2)
    low, high = summary["interval"]["best_of_n"]["1"]
    assert 0 <= low <= summary["best_of_n"]["1"] <= high <= 1
    assert json.loads(json.dumps(summary)) == summary
    assert table(summary).splitlines()[0].split() == ["n", *[k for k in summary if k not in _COUNTS]]


_COUNTS = ("interval", "against_majority", "problems", "samples")


def test_what_scores_add_to_a_majority():
    """One problem is gained, one is right already: +.5, and a quarter of the draws each have only one of the two."""
    gained = [row("a", "5", False, score=0.1), row("a", "5", False, score=0.1), row("a", "7", True, score=0.9)]
    right = [row("b", "1", True, score=0.5)] * 3
    summary = summarise(build_bank(gained + right))
    assert summary["against_majority"]["weighted_vote"]["2"][0] < 0.5  # subsets of two may lack the right answer
    summary = summarise(build_bank(gained + right), sizes=[3])
    assert summary["against_majority"] == {"weighted_vote": {"3": [0.5, 0, 1]}, "best_of_n": {"3": [0.5, 0, 1]}}
    assert table(summary).splitlines()[-1] == "best_of_n against majority, n = 3: +0.5000 [+0.0000, +1.0000]"


def test_one_of_several_models_is_chosen_by_name():
    rows = [row("a", "1", True, step_scores={"orm": [0.2], "prm": [0.9, 0.4]}, score=0.7)]
    assert build_bank(rows, scores="prm").rank_PK.tolist() == [[0.4]]
    assert build_bank(rows, scores="orm").rank_PK.tolist() == [[0.2]]
    with pytest.raises(BadRecord, match=r"rows:1: step_scores are of \['orm', 'prm'\]; choose one"):
        build_bank(rows)
    with pytest.raises(BadRecord, match="has no names"):
        build_bank([row("a", "1", True, step_scores=[0.2])], scores="prm")


def test_step_scores_use_min_to_rank_and_prod_to_vote():
    rows = [row("a", "1", True, step_scores=[0.9, 0.5]), row("a", "2", False, step_scores=[0.6, 0.6])]
    bank = build_bank(rows)
    assert bank.rank_PK.tolist() == [[0.5, 0.6]] and bank.vote_PK.ravel().tolist() == pytest.approx([0.45, 0.36])
    assert build_bank(rows, rank_by="max").rank_PK.tolist() == [[0.9, 0.6]]


def test_answer_class_overrules_the_text():
    rows = [row("a", "1/2", True, answer_class=0), row("a", "0.5", True, answer_class=0), row("a", "3", False)]
    assert build_bank(rows).classes_PK.tolist() == [[0, 0, 1]]


def test_without_scores_only_votes_are_shown():
    rows = [row("a", "1", True), row("a", "2", False)]
    assert set(summarise(build_bank(rows))) - set(_COUNTS) == {"mean", "majority", "pass_at_n"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem_id": "a", "correct": True}], "t.jsonl:1: missing field 'answer'"),
        ([row("a", "1", "yes")], "t.jsonl:1: correct is 'yes'"),
        ([row("a", "1", True, score=float("nan"))], "t.jsonl:1: score is nan"),
        ([row("a", "1", True, step_scores=[])], "t.jsonl:1: step scores"),
        ([row("a", "1", True, score=1.0), row("a", "1", True)], "1 of 2 rows have no score"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(BadRecord, match=message):
        build_bank(rows, source="t.jsonl")


def test_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        build_bank([])


def test_answers_are_grouped_by_a_given_equality():
    """As strings 7 wins with two of four; with 3 and 3.0 equal, 3 has two as well and was seen first."""
    rows = [row("a", answer, answer != "7", score=0.5) for answer in ("3", "7", "3.0", "7")]
    assert build_bank(rows).classes_PK.tolist() == [[0, 1, 2, 1]]
    bank = build_bank(rows, same=lambda one, other: float(one) == float(other))
    assert bank.classes_PK.tolist() == [[0, 1, 0, 1]]
    assert summarise(bank)["majority"]["4"] == 1.0 != summarise(build_bank(rows))["majority"]["4"]
    with pytest.raises(BadRecord, match="rows:1: has answer_class"):
        build_bank([row("a", "3", True, answer_class=0)], same=lambda one, other: one == other)
