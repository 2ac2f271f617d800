import pytest
import torch

from rlhf_e2h.rl.step_rewards import SCHEMES, check_scheme, place, shape_rewards

A, B = [0.9, 0.12, 0.6], [0.9, 0.8, 0.95, 0.7]
# (scheme, options, scores, rewards). min and prod rows: golden values of the paper's code, bonus .25, easy-to-hard
# reference, section 4; the others are worked out beside the row.
GOLDEN = [
    ("min_decrement", {"upper_bound": 0.5}, A, [0.083333, -0.296667, 0.083333]),
    ("min_decrement", {"upper_bound": 1.0}, A, [-0.016667, -0.696667, 0.083333]),
    ("prod_decrement", {"upper_bound": 1.0}, A, [-0.016667, -0.708667, 0.040133]),
    ("min_decrement", {"upper_bound": 0.5}, B, [0.0625, 0.0625, 0.0625, 0.0625]),
    ("min_decrement", {"upper_bound": 1.0, "bonus": 0.0}, B, [-0.1, -0.1, 0.0, -0.1]),
    ("terminal", {}, A, [0.0, 0.0, 0.12]),
    ("terminal", {"aggregation": "prod"}, A, [0.0, 0.0, 0.0648]),  # .9 * .12 * .6
    ("terminal", {"aggregation": "mean"}, A, [0.0, 0.0, 0.54]),  # 1.62 / 3
    ("terminal", {"aggregation": "last"}, A, [0.0, 0.0, 0.6]),
    ("sum", {}, A, A),
    ("sum", {"offset": 0.5}, A, [0.4, -0.38, 0.1]),
    # weights e^-9 : e^-1.2 : e^-6 = 1.23410e-4 : .3011942 : 2.478752e-3, their sum .3037964;
    # times the score: .9 * 4.06226e-4, .12 * .9914345, .6 * 8.159255e-3
    ("min_form", {"temperature": 0.1}, A, [0.000365603, 0.11897214, 0.004895553]),
    ("potential", {}, A, [0.4, -0.78, 0.48]),  # .9-.5, .12-.9, .6-.12
    ("potential", {"initial": 1.0}, A, [-0.1, -0.78, 0.48]),
    ("potential", {"closed": True}, A, [0.4, -0.78, -0.12]),  # .48 - .6; adds up to -.5
]


@pytest.mark.parametrize(("scheme", "options", "scores", "expected"), GOLDEN)
def test_golden_rewards_alone_and_beside_a_longer_row(scheme, options, scores, expected):
    alone = shape_rewards(scheme, torch.tensor([scores]), torch.ones(1, len(scores), dtype=torch.bool), **options)
    torch.testing.assert_close(alone, torch.tensor([expected]), atol=1.5e-6, rtol=0)
    # the same row padded with NaN, under a row of six steps
    padding = 6 - len(scores)
    both = torch.tensor([[0.3] * 6, scores + [float("nan")] * padding])
    mask = torch.tensor([[True] * 6, [True] * len(scores) + [False] * padding])
    padded = shape_rewards(scheme, both, mask, **options)[1]
    torch.testing.assert_close(padded, torch.tensor(expected + [0.0] * padding), atol=1.5e-6, rtol=0)


@pytest.mark.parametrize(("options", "scores", "total"), [({"upper_bound": 0.5}, A, -0.13), ({}, A, -0.63)])
def test_min_decrement_adds_up_to_the_minimum_less_the_bound_plus_the_bonus(options, scores, total):
    rewards = shape_rewards("min_decrement", torch.tensor([scores]), torch.ones(1, 3, dtype=torch.bool), **options)
    assert rewards.sum().item() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_solution_without_steps_gets_nothing(scheme):
    scores, mask = torch.full((2, 2), 0.5), torch.tensor([[False, False], [True, True]])
    rewards = shape_rewards(scheme, scores, mask)
    assert rewards[0].tolist() == [0.0, 0.0]
    assert torch.isfinite(rewards).all()
    assert shape_rewards(scheme, torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool)).shape == (3, 0)


def test_min_form_tends_to_the_minimum():
    rewards = shape_rewards("min_form", torch.tensor([A]), torch.ones(1, 3, dtype=torch.bool), temperature=0.001)
    assert rewards.sum().item() == pytest.approx(0.12)


def test_place_puts_each_reward_on_the_token_that_ends_its_step():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 999.0]])
    tokens = torch.tensor([[1, 3, 3], [0, 2, 77]])
    steps = torch.tensor([[True, True, True], [True, True, False]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    placed = place(rewards, tokens, steps, mask)
    assert placed.tolist() == [[0.0, 1.0, 0.0, 6.0], [8.0, 0.0, 16.0, 0.0]]


@pytest.mark.parametrize("token", [-1, 3])
def test_a_step_outside_the_completion_is_an_error_and_not_a_lost_reward(token):
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    with pytest.raises(ValueError, match=f"step 0 of row 0 ends on token {token}, but the row has 3 tokens"):
        place(torch.ones(1, 1), torch.tensor([[token]]), torch.ones(1, 1, dtype=torch.bool), mask)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'minimum' is unknown; use one of terminal, sum"):
        check_scheme("minimum", {})
    with pytest.raises(ValueError, match=r"no option 'bound'; it has upper_bound, bonus"):
        check_scheme("min_decrement", {"bound": 1.0})
    with pytest.raises(ValueError, match="'median' is unknown"):
        shape_rewards("terminal", torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), aggregation="median")
