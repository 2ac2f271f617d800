"""Mixtures and curricula: golden values of the public code, planted graphs, what is open when."""

import numpy as np
import pytest

from rlhf_e2h.training.curricula import weights_at
from rlhf_e2h.training.mixtures import (
    by_size,
    doremi_step,
    given_graph,
    learned_graph,
    normalised,
    skill_it_weights,
    uniform,
)

LEGO = [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
ADDITION = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_golden_doremi():
    assert doremi_step([0.5, 0.5], [1.0, -1.0]) == pytest.approx([0.731035, 0.268965], abs=1e-6)


def test_golden_skill_it_at_the_start():
    lego = skill_it_weights(uniform(5), given_graph(LEGO), [], eta=0.5)
    assert lego == pytest.approx([0.163479, 0.346085, 0.163479, 0.163479, 0.163479], abs=1e-6)
    addition = skill_it_weights(uniform(3), given_graph(ADDITION), [], eta=0.1)
    assert addition == pytest.approx([0.327732, 0.344535, 0.327732], abs=1e-6)


def test_skill_it_sums_the_last_losses_and_starts_from_the_first_weights():
    losses = [[9.0, 9.0], [1.0, 2.0], [0.5, 1.0], [0.5, 0.0]]  # the last three: 2 and 3
    # from (.75, .25): .75 * e^(.1 * 2), .25 * e^(.1 * 3)
    a, b = 0.75 * np.exp(0.2), 0.25 * np.exp(0.3)
    found = skill_it_weights([0.75, 0.25], given_graph(np.eye(2)), losses, eta=0.1)
    assert found == pytest.approx([a / (a + b), b / (a + b)])
    relative = skill_it_weights([0.5, 0.5], given_graph(np.eye(2)), [[2.0, 4.0]], eta=1.0, normalise=True)
    assert relative == pytest.approx([0.5, 0.5])


def test_fixed_mixtures():
    assert by_size([30, 10]).tolist() == [0.75, 0.25]
    assert normalised({"b": 1, "a": 3}, ["a", "b"]).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, "skill 'b' has no weight"),
        ({"a": 1, "b": 1, "c": 1}, "'c' is not a skill"),
        ({"a": 0, "b": 0}, "not all 0"),
        ({"a": -1, "b": 2}, ">= 0"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        normalised(weights, ["a", "b"])


def test_a_skill_without_validation_items_is_an_error():
    with pytest.raises(ValueError, match="without validation items"):
        skill_it_weights(uniform(2), np.eye(2), [[1.0, np.nan]])
    with pytest.raises(ValueError, match="give K rows of K"):
        skill_it_weights(uniform(2), np.eye(3), [])


def test_graph_learner_finds_the_planted_edge():
    # loss on j after equal steps: 1.0 alone; sharing the steps with another skill costs .3, but 0 teaches 1
    rng = np.random.default_rng(0)
    alone = 1.0 + 0.01 * rng.standard_normal((3, 4))
    together = 1.3 + 0.01 * rng.standard_normal((3, 3, 4))
    together[0, 1] = 0.6 + 0.01 * rng.standard_normal(4)
    together[2, 0] = [0.9, 0.9, 0.9, 1.2]  # better in the mean, not in every seed
    edges, gains = learned_graph(alone, together)
    assert edges.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert gains[0, 1] == pytest.approx(0.4, abs=0.02)
    assert given_graph(edges).tolist() == [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]


def test_staged_never_opens_a_level_before_its_time():
    for step in range(100):
        weights = weights_at(step, 100, uniform(5), [10] * 5, "staged")
        assert (weights > 0).sum() == 1 + step // 20
        assert np.flatnonzero(weights).max() == step // 20
        assert np.flatnonzero(weights_at(step, 100, uniform(5), [10] * 5, "anti")).min() == 4 - step // 20


def test_pacing_opens_examples_by_number():
    counts = [100, 50, 50]
    assert weights_at(0, 10, uniform(3), counts, "linear", start=0.25).tolist() == [1, 0, 0]
    half = weights_at(5, 10, uniform(3), counts, "linear", start=0.25)  # .625 of 200 = 125: 100 and 25
    assert half == pytest.approx([0.8, 0.2, 0])
    assert weights_at(10, 10, uniform(3), counts, "linear") == pytest.approx([0.5, 0.25, 0.25])
    # log pacing is ahead of linear: at half time log(5.5)/log(10) = .740 of the way
    assert weights_at(5, 10, uniform(3), counts, "log", start=0.25)[1] > half[1]


def test_group_curriculum_mixes_earlier_skills_and_ends_with_all():
    found = [weights_at(step, 4, uniform(3), [2, 1, 1], "group", mixing=0.2).tolist() for step in range(4)]
    assert found[0] == [1, 0, 0]
    assert found[1] == pytest.approx([0.2, 0.8, 0])
    assert found[2] == pytest.approx([0.1, 0.1, 0.8])
    assert found[3] == pytest.approx([0.5, 0.25, 0.25])


def test_unknown_curriculum():
    with pytest.raises(ValueError, match="'spiral' is not known"):
        weights_at(0, 1, [1.0], [1], "spiral")
