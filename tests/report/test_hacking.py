"""Intervals of what policies changed: paired by problem, over seeds."""

import pytest

from reward_models.records import write_jsonl
from rlhf_e2h.report.hacking import with_change_intervals
from rlhf_e2h.report.quality_figures import hacking_plots
from rlhf_e2h.report.svg import Palette


def rows(policy, score, correct, level=4):
    """20 problems; score and correct are functions of the problem's number."""
    return [
        {"policy": policy, "decoding": "greedy", "problem_id": f"p{i}", "level": level}
        | {"score": score(i), "correct": correct(i)}
        for i in range(20)
    ]


def point(policy, level="4", score=0.7, accuracy=0.6):
    return {
        "policy": policy,
        "level": level,
        "step": None,
        "judge": "prm",
        "score": score,
        "accuracy": accuracy,
        "n": 20,
    }


@pytest.fixture
def files(tmp_path):
    """The policy scores .1 higher on every problem, and solves every second one that the reference does not."""
    easy = rows("sft_easy", lambda i: i / 40, lambda i: float(i < 10))
    ppo = rows("ppo", lambda i: i / 40 + 0.1, lambda i: float(i < 10 or i % 2))
    write_jsonl(tmp_path / "outcomes.jsonl", easy + ppo)
    return [(0, tmp_path / "outcomes.jsonl")]


def test_intervals_are_paired(files):
    start, ppo, other = with_change_intervals([point("sft_easy"), point("ppo"), point("dpo")], files, 500)
    assert start == point("sft_easy") and other == point("dpo")  # nothing to compare
    # .1 on every problem: paired, there is no spread at all, though scores range over half the scale
    assert (ppo["score_low"], ppo["score_high"]) == (pytest.approx(0.1), pytest.approx(0.1))
    # 5 of 20 problems gained: .25 with a standard error of sqrt(.25 * .75 / 20) = .097
    assert ppo["accuracy_low"] == pytest.approx(0.25 - 1.96 * 0.097, abs=0.04)
    assert ppo["accuracy_high"] == pytest.approx(0.25 + 1.96 * 0.097, abs=0.04)


def test_the_figure_has_them_in_its_numbers(files):
    (plot,) = hacking_plots(with_change_intervals([point("sft_easy", score=0.6), point("ppo")], files, 100), Palette())
    (row,) = plot.rows
    assert row["score_change"] == pytest.approx(0.1) and row["score_low"] == pytest.approx(0.1)
    assert {"accuracy_low", "score_high"} <= set(plot.columns)
    (bare,) = hacking_plots([point("sft_easy"), point("ppo")], Palette())  # of a run without scores by problem
    assert bare.rows[0]["score_low"] is None
