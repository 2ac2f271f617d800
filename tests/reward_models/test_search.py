"""A world small enough to enumerate: steps are digits, the judge prefers a hidden sequence."""

import pytest

from reward_models.score import Scorer, StepScores
from reward_models.search import beam_search

HIDDEN = ["3", "1", "2"]


class Oracle:
    """Each step is 0.9 if it agrees with the hidden sequence and 0.2 otherwise; the score is the minimum."""

    def score(self, problem, solutions):
        steps = [[0.9 if step == hidden else 0.2 for step, hidden in zip(s, HIDDEN, strict=False)] for s in solutions]
        return [StepScores(found, min(found)) for found in steps]


def digits(problem, prefixes, count):
    """Every digit from 0 to 3, the last step of three finishes; `count` is ignored but recorded."""
    digits.asked.append((len(prefixes), count))
    return [[(str(d), len(prefix) == 2) for d in range(4)] for prefix in prefixes]


def test_beam_search_finds_the_hidden_sequence():
    digits.asked = []
    found = beam_search("q", digits, Oracle(), beams=2, width=4)
    assert found[0].steps == HIDDEN and found[0].finished and found[0].score == 0.9
    assert len(found) == 2
    assert digits.asked == [(1, 8), (2, 4), (2, 4)]


def test_finished_beams_stay_and_the_limit_holds():
    def propose(problem, prefixes, count):
        return [[("stop", True), ("go", False)] for _ in prefixes]

    class Flat:
        def score(self, problem, solutions):
            return [StepScores([0.5], 0.5 if steps[-1] == "stop" else 0.6) for steps in solutions]

    found = beam_search("q", propose, Flat(), beams=2, width=2, max_steps=3)
    assert [beam.steps for beam in found] == [["go", "go", "go"], ["stop"]]
    assert [beam.finished for beam in found] == [False, True]


def test_equal_proposals_are_scored_once():
    seen = []

    class Counting(Oracle):
        def score(self, problem, solutions):
            seen.append(len(solutions))
            return super().score(problem, solutions)

    beam_search("q", lambda p, prefixes, n: [[("3", True)] * n for _ in prefixes], Counting(), beams=2, width=3)
    assert seen == [1]


def test_with_a_real_scorer(prm):
    scorer = Scorer.from_pretrained(prm[0])

    def propose(problem, prefixes, count):
        return [[("bad step.", len(p) == 2), ("good step.", len(p) == 2)] for p in prefixes]

    best = beam_search("What is 3?", propose, scorer, beams=2, width=2)[0]
    assert best.steps == ["good step."] * 3 and len(best.step_scores) == 3


def test_wrong_calls():
    with pytest.raises(ValueError, match="beams 0"):
        beam_search("q", digits, Oracle(), beams=0)
    with pytest.raises(ValueError, match="0 lists for 1 prefixes"):
        beam_search("q", lambda p, prefixes, n: [], Oracle())
