"""Which samples become pairs, training solutions and reward-model records: small cases by hand."""

import pytest

from reward_models.records import Stepwise
from rlhf_e2h.data.levels import choose
from rlhf_e2h.samples.judged import vote
from rlhf_e2h.stages.dpo import Config as DpoConfig
from rlhf_e2h.stages.dpo import pairs
from rlhf_e2h.stages.rest import keep
from rlhf_e2h.stages.reward import Config
from rlhf_e2h.training.reward_records import at_most, outcome_rows, thinned


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


def test_orm_records_keep_the_first_right_and_wrong_ones_within_the_ratio():
    verdicts = [("a", False)] * 2 + [("a", True)] + [("a", False)] * 5 + [("b", True)] * 4
    rows = [
        {"problem_id": name, "correct": right, "finished": True, "text": str(number)}
        for number, (name, right) in enumerate(verdicts)
    ]
    kept = outcome_rows(Config("orm", "b", "d"), rows)
    assert [row["text"] for row in kept] == ["2", "0", "1", "3"]


@pytest.mark.parametrize(("limit", "levels"), [(4, [1, 1, 5, 5]), (3, [1, 1, 5]), (None, [1, 1, 1, 5, 5])])
def test_a_limit_takes_from_every_level(limit, levels):
    problems = [{"problem_id": str(i), "level": level} for i, level in enumerate([1, 1, 1, 5, 5])]
    assert [p["level"] for p in choose(problems, None, limit)] == levels


def test_a_limit_of_records_is_a_random_choice_in_their_order():
    records = [Stepwise("p", ["a"], [1], 1, {"n": i}) for i in range(50)]
    numbers = [record.extra["n"] for record in at_most(records, 20, seed=1)]
    assert len(set(numbers)) == 20 and numbers == sorted(numbers) and numbers != list(range(20))
    assert at_most(records, 20, seed=1) != at_most(records, 20, seed=2)
    assert at_most(records, None, seed=1) == at_most(records, 50, seed=1) == records


def test_faultless_solutions_are_thinned_at_random_and_faulty_ones_kept():
    records = [Stepwise("p", ["a", "b"], [1, int(i % 10 != 0)], 1, {"n": i}) for i in range(100)]  # 10 faulty
    kept = thinned(records, 0.5, seed=3)
    numbers = [record.extra["n"] for record in kept]
    assert numbers == sorted(numbers) and len(kept) == 15
    assert {n for n in numbers if n % 10 == 0} == set(range(0, 100, 10))
    assert thinned(records, 0.5, seed=3) == kept != thinned(records, 0.5, seed=4)
    assert thinned(records, 1000.0, seed=3) == records


def test_thinning_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="for kind 'orm'"):
        Config(kind="orm", base="b", data="d", faultless_per_faulty=1.0)
    with pytest.raises(ValueError, match="above 0"):
        Config(kind="prm", base="b", data="d", faultless_per_faulty=0.0)


def test_unlabelled_pairs_choose_only_what_says_something():
    """An empty text, one without an answer or with an empty step may lose, but never win."""
    rows = [
        _row(0, 0.99, answer=None, text=""),
        _row(1, 0.98, answer=" ", text="no answer here"),
        _row(2, 0.97, text="a\n\n\n\nb"),
        _row(3, 0.9, text="2 + 3 = 5\n\n# Answer\n\n5"),
        _row(4, 0.1, answer=None, text="nothing"),
    ]
    assert _pairs(rows) == [("2 + 3 = 5\n\n# Answer\n\n5", "nothing", 0.8)]
    assert _pairs(rows[:3]) == []


def test_a_text_is_in_one_pair_at_most():
    rows = [_row(index, 1 - index / 10, answer=None if index in (0, 2) else "1") for index in range(10)]
    found = _pairs(rows, margin_unlabelled=0.1, max_pairs=5)
    assert found == [("text 1", "text 9", 0.8), ("text 3", "text 8", 0.5), ("text 4", "text 7", 0.3)]


def test_outcome_data_of_an_oprm_is_balanced_where_asked():
    """Sun et al. 2024, appendix C.1: between 1:3 and 3:1 a question, for the ORM and the OPRM that reads the same."""
    rows = [{"problem_id": "a", "text": str(i), "correct": i == 0, "finished": i != 1} for i in range(9)]

    def outcomes(kind, **settings):
        return [row["correct"] for row in outcome_rows(Config(kind, "b", "d", **settings), rows)]

    assert outcomes("oprm", balance_outcomes=True) == outcomes("orm") == [True, False, False, False]
    assert outcomes("oprm") == outcomes("prm") == [True] + [False] * 7
    with pytest.raises(ValueError, match="not 'prm'"):
        Config("prm", "b", "d", balance_outcomes=True)
