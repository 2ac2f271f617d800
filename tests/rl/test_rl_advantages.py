import math

import pytest
import torch

from rlhf_e2h.rl.advantages import explained_variance, gae, masked_mean, moment_sums, whiten

NAN = float("nan")


def test_gae_by_hand_with_padding():
    # gamma .9, lambda .8, rewards 0 0 1, values .5 .2 .4:
    # delta_2 = 1 - .4 = .6               A_2 = .6
    # delta_1 = 0 + .9*.4 - .2 = .16      A_1 = .16 + .72*.6 = .592
    # delta_0 = 0 + .9*.2 - .5 = -.32     A_0 = -.32 + .72*.592 = .10624
    # second row: one token, reward 2, value .5: A = 1.5. Padding holds NaN, which must not leak.
    rewards = torch.tensor([[0.0, 0.0, 1.0, NAN], [2.0, NAN, NAN, 7.0]])
    values = torch.tensor([[0.5, 0.2, 0.4, NAN], [0.5, NAN, 3.0, NAN]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(advantages, torch.tensor([[0.10624, 0.592, 0.6, 0.0], [1.5, 0, 0, 0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.60624, 0.792, 1.0, 0.0], [2.0, 0, 0, 0]]))


def test_gae_with_gamma_and_lambda_one_is_reward_to_go_minus_value():
    # reward to go: 1-2+4 = 3, -2+4 = 2, 4
    rewards, values = torch.tensor([[1.0, -2.0, 4.0]]), torch.tensor([[0.5, 1.0, -1.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(returns, torch.tensor([[3.0, 2.0, 4.0]]))
    torch.testing.assert_close(advantages, torch.tensor([[2.5, 1.0, 5.0]]))


def test_gae_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        gae(torch.zeros(2, 3), torch.zeros(1, 3), torch.ones(2, 3, dtype=torch.bool))


def test_masked_mean_ignores_padding():
    values = torch.tensor([[1.0, 2.0, NAN], [6.0, math.inf, 100.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert masked_mean(values, mask).item() == 3.0  # (1 + 2 + 6) / 3
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0.0


def test_whiten_removes_the_mean_of_real_tokens_only():
    # real: 1 3 5 7, mean 4, population variance (9+1+1+9)/4 = 5, std 2.2360680
    values = torch.tensor([[1.0, 3.0, NAN], [5.0, 7.0, 1000.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    expected = torch.tensor([[-1.3416408, -0.4472136, 0.0], [0.4472136, 1.3416408, 0.0]])
    torch.testing.assert_close(whiten(values, mask), expected)
    scaled = torch.tensor([[0.4472136, 1.3416408, 0.0], [2.2360680, 3.1304952, 0.0]])
    torch.testing.assert_close(whiten(values, mask, keep_mean=True), scaled)


def test_moments_of_parts_whiten_like_the_whole():
    # the two rows of the test above as two ranks: count 2+2, sum 4+12, squares 10+74
    rows = [torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 7.0]])]
    mask = torch.ones(1, 2, dtype=torch.bool)
    sums = moment_sums(rows[0], mask) + moment_sums(rows[1], mask)
    assert sums.tolist() == [4.0, 16.0, 84.0]
    torch.testing.assert_close(whiten(rows[1], mask, sums), torch.tensor([[0.4472136, 1.3416408]]))


def test_whitening_keeps_precision_far_from_zero():
    values = torch.tensor([[10000.0, 10001.0]])
    white = whiten(values, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(white, torch.tensor([[-1.0, 1.0]]), atol=1e-5, rtol=0)


def test_explained_variance():
    # returns 1 2 3 4 (variance 1.25), errors 0 1 0 1 (variance .25): 1 - .25/1.25 = .8
    mask = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    returns = torch.tensor([[1.0, 2.0, 3.0, 4.0, NAN]])
    values = torch.tensor([[1.0, 1.0, 3.0, 3.0, 9.0]])
    assert explained_variance(values, returns, mask).item() == pytest.approx(0.8)
    assert explained_variance(values, torch.ones(1, 5), mask).item() == 0.0
