"""Which samples become pairs, training solutions and reward-model records: small cases by hand."""

import pytest

from rlhf_e2h.judge import vote
from rlhf_e2h.stages.dpo import Config as DpoConfig
from rlhf_e2h.stages.dpo import pairs
from rlhf_e2h.stages.rest import keep
from rlhf_e2h.stages.reward import balanced
from rlhf_e2h.stages.sample import choose


def _row(sample_id, rm, correct=None, answer="1", finished=True, text=None):
    return {
        "problem_id": "p",
        "sample_id": sample_id,
        "rm": rm,
        "correct": correct,
        "answer": answer,
        "finished": finished,
        "text": text or f"text {sample_id}",
    }


def _pairs(rows, **settings):
    config = DpoConfig(policy="m", data="d", reward_model="r", **settings)
    found = pairs(rows, {"p": {"problem": "q"}}, config)
    return [(pair["chosen"], pair["rejected"], round(pair["margin"], 6)) for pair in found]


def test_labelled_pairs_need_more_than_the_papers_margin():
    # scores 1.9, 1.4, .6, .2: the best with the worst is 1.7 apart, the second pair .8, which is not above 1.0
    rows = [_row(0, 0.9, True), _row(1, 0.6, False), _row(2, 0.4, True), _row(3, 0.2, False)]
    assert _pairs(rows) == [("text 0", "text 3", 1.7)]
    assert _pairs(rows, margin=0.5) == [("text 0", "text 3", 1.7), ("text 2", "text 1", 0.8)]


def test_a_margin_of_exactly_one_is_not_above_it():
    assert _pairs([_row(0, 0.5, True), _row(1, 0.5, False)]) == []


def test_unlabelled_pairs_go_by_the_reward_model_alone():
    rows = [_row(0, 0.9), _row(1, 0.3)]
    assert _pairs(rows) == [("text 0", "text 1", 0.6)]
    assert _pairs(rows, margin_unlabelled=0.7) == []


def test_at_most_so_many_pairs_and_no_unfinished_text():
    rows = [_row(i, 0.9, True) for i in range(5)] + [_row(i, 0.1, False) for i in range(5, 10)]
    assert len(_pairs(rows)) == 3
    assert _pairs([_row(0, 0.9, True), _row(1, 0.0, False, finished=False)]) == []


def test_weighted_vote_adds_scores_of_equal_answers():
    # 1/2 and 0.5 are one answer: .4 + .4 beats .7
    rows = [_row(0, 0.4, answer="1/2"), _row(1, 0.7, answer="3"), _row(2, 0.4, answer="0.5"), _row(3, 0.9, answer=None)]
    assert vote(rows) == {0, 2}
    assert vote([_row(0, 0.9, answer=None)]) == set()


def test_rest_keeps_right_easy_solutions_and_trusted_winners_of_hard_problems():
    easy = [_row(0, 0.1, True), _row(1, 0.9, False), _row(2, 0.5, True, text="text 0")]
    assert [row["sample_id"] for row in keep(easy, 0.5)] == [2]  # the same text once
    hard = [_row(0, 0.6, answer="1"), _row(1, 0.8, answer="1"), _row(2, 0.4, answer="1"), _row(3, 0.9, answer="2")]
    assert [row["sample_id"] for row in keep(hard, 0.5)] == [1, 0]


def test_orm_records_keep_right_and_wrong_within_the_ratio():
    rows = [{"problem_id": "a", "correct": True}] + [{"problem_id": "a", "correct": False}] * 7
    rows += [{"problem_id": "b", "correct": True}] * 4
    kept = balanced(rows, 3.0)
    assert [row["correct"] for row in kept] == [True, False, False, False]


@pytest.mark.parametrize(("limit", "levels"), [(4, [1, 1, 5, 5]), (3, [1, 1, 5]), (None, [1, 1, 1, 5, 5])])
def test_a_limit_takes_from_every_level(limit, levels):
    problems = [{"problem_id": str(i), "level": level} for i, level in enumerate([1, 1, 1, 5, 5])]
    assert [p["level"] for p in choose(problems, None, limit)] == levels
