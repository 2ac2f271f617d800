"""The sampler of skills and the formats of a solution."""

import json

import numpy as np
import pytest
from scipy.stats import chisquare

from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.data.solution_formats import FORMATS, read_answer, render, rewrite
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.training.skill_sampler import SkillSampler

SKILLS = ["1"] * 50 + ["2"] * 30 + ["3"] * 20


def _sampler(seed=0, weights=(0.5, 0.3, 0.2)):
    return SkillSampler(SKILLS, ["1", "2", "3"], lambda t: weights, batch=8, seed=seed)


def test_shares_follow_the_weights():
    sampler = _sampler(weights=(0.6, 0.1, 0.3))
    drawn = [SKILLS[i] for t in range(500) for i in sampler.indices(t)]
    counts = [drawn.count(skill) for skill in "123"]
    assert chisquare(counts, np.array([0.6, 0.1, 0.3]) * 4000).pvalue > 0.01


def test_every_example_of_a_skill_comes_before_any_comes_again():
    sampler = _sampler(weights=(0, 0, 1))
    drawn = [i for t in range(5) for i in sampler.indices(t)]  # 40 of 20
    assert sorted(drawn[:16]) == sorted(set(drawn[:16]))
    assert sorted(drawn) == sorted(list(range(80, 100)) * 2)


def test_batches_do_not_depend_on_the_order_in_which_they_are_asked_for():
    one, other = _sampler(), _sampler()
    whole = [one.indices(t) for t in range(12)]
    assert [other.indices(t) for t in (7, 3, 11)] == [whole[t] for t in (7, 3, 11)]
    assert _sampler(seed=1).indices(0) != whole[0]


def test_resumes_exactly_from_its_state():
    def play(sampler, first, last):
        batches = []
        for t in range(first, last):
            batches.append(sampler.indices(t))
            if t % 4 == 3:
                sampler.decide(t + 2, [1 + t, 1, 2])  # one batch later than the next, which a loader may hold already
        return batches

    whole = _sampler()
    expected = play(whole, 0, 20)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = _sampler()
    resumed.load_state_dict(state, batches=10)
    assert [first for first, _ in resumed.decisions] == [5, 9]
    assert play(resumed, 10, 20) == expected[10:]
    assert resumed.state_dict() == whole.state_dict()
    with pytest.raises(ValueError, match="start afresh"):
        _sampler(seed=5).load_state_dict(state)


def test_a_late_decision_changes_later_batches_only():
    plain, changed = _sampler(), _sampler()
    first = [plain.indices(t) for t in range(6)]
    assert [changed.indices(t) for t in range(6)] == first
    changed.decide(3, [0, 0, 1])
    assert [changed.indices(t) for t in range(3)] == first[:3]
    assert all(SKILLS[i] == "3" for i in changed.indices(3))


def test_bad_skills_and_weights():
    with pytest.raises(ValueError, match="'4' has no examples"):
        SkillSampler(SKILLS, ["1", "2", "3", "4"], lambda t: [1] * 4, 8, 0)
    with pytest.raises(ValueError, match="none of 1, 2"):
        SkillSampler(SKILLS, ["1", "2"], lambda t: [1, 1], 8, 0)
    with pytest.raises(ValueError, match="are no shares"):
        _sampler(weights=(0, 0, float("nan"))).indices(0)


def test_every_format_keeps_the_answer():
    for row in make_problems(dict.fromkeys(range(1, 6), 200), seed=3):
        for form in FORMATS:
            text = rewrite(row["solution"], form)
            assert read_answer(text, form) == row["answer"]


def test_formats_written_out():
    steps = ["p=4+3=2", "q=2*4=3"]
    assert render(steps, "3", "answer") == "# Answer\n\n3"
    assert render(steps, "3", "reverse") == "# Answer\n\n3\n\np=4+3=2\n\nq=2*4=3"
    assert render(steps, "3", "simplified") == "p=2\n\nq=3\n\n# Answer\n\n3"
    assert render(steps, "3", "full") == SECTIONS.solution(steps, "3")
    assert read_answer("# Answer\n\n3\n\np=1\n\n# Answer\n\n4", "reverse") is None
    assert read_answer("p=1", "reverse") is None
    with pytest.raises(ValueError, match="no single answer section"):
        rewrite("p=1", "answer")
    with pytest.raises(ValueError, match="'rhyme' is not known"):
        render(steps, "3", "rhyme")
