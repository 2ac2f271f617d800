import math

import pytest
import torch

from rlhf_e2h.rl.losses import (
    importance_weights,
    policy_loss,
    sampler_mismatch,
    token_entropy,
    token_logprobs,
    value_loss,
)

NAN = float("nan")


def test_token_logprobs_use_the_sampling_temperature():
    # logits 0 and ln 9 at temperature 2: weights 1 and 3, so probabilities 1/4 and 3/4
    logits = torch.tensor([[[0.0, math.log(9.0)], [0.0, math.log(9.0)]]])
    logprobs = token_logprobs(logits, torch.tensor([[0, 1]]), temperature=2.0)
    torch.testing.assert_close(logprobs, torch.tensor([[math.log(0.25), math.log(0.75)]]))
    # entropy of (1/4, 3/4) = .25 ln 4 + .75 ln(4/3) = .3465736 + .2157616
    torch.testing.assert_close(token_entropy(logits, 2.0), torch.tensor([[0.5623351, 0.5623351]]))


def test_policy_loss_by_hand():
    # clip .2; ratio = new/old probability
    # token   ratio  A    -A*ratio  -A*clamped   larger   clipped is larger
    # 0       1.5    2    -3.0      -2.4         -2.4     yes
    # 1       1.5   -1     1.5       1.2          1.5     no
    # 2       0.5    1    -0.5      -0.8         -0.5     no
    # 3       0.5   -2     1.0       1.6          1.6     yes
    # 4       padding
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 0.0]])
    old = torch.tensor([[-1.0, -2.0, -0.5, -3.0, NAN]])
    advantages = torch.tensor([[2.0, -1.0, 1.0, -2.0, NAN]])
    mask = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    new = (old + ratio.log()).requires_grad_()
    result = policy_loss(new, old, advantages, mask, clip=0.2)
    assert result.loss.item() == pytest.approx((-2.4 + 1.5 - 0.5 + 1.6) / 4)
    assert result.clip_fraction.item() == pytest.approx(0.5)
    assert result.ratio.item() == pytest.approx(1.0)
    # (ln 1.5)^2 = .1644020, (ln .5)^2 = .4804530; half of their mean
    assert result.approx_kl.item() == pytest.approx((0.1644020 + 0.4804530) / 4, abs=1e-6)
    result.loss.backward()
    # clipped tokens and padding have no gradient; else d/dlogp = -A * ratio / 4
    torch.testing.assert_close(new.grad, torch.tensor([[0.0, 0.375, -0.125, 0.0, 0.0]]))


def test_importance_weights_scale_each_token():
    zeros, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    weights = torch.tensor([[0.5, 2.0]])
    loss = policy_loss(zeros, zeros, torch.tensor([[1.0, 3.0]]), mask, 0.2, weights_BT=weights).loss
    assert loss.item() == pytest.approx((-0.5 - 6.0) / 2)


def test_value_loss_by_hand():
    # clip .2, half the mean of the larger squared error
    # V     V_old  R     (V-R)^2   clamped V   (clamped-R)^2   larger
    # 1.0   0.5    0.0   1.00      0.7         0.49            1.00
    # 1.0   0.5    2.0   1.00      0.7         1.69            1.69  clipped
    # 0.6   0.5    1.0   0.16      0.6         0.16            0.16
    values = torch.tensor([[1.0, 1.0, 0.6, NAN]], requires_grad=True)
    old = torch.tensor([[0.5, 0.5, 0.5, NAN]])
    returns = torch.tensor([[0.0, 2.0, 1.0, NAN]])
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    result = value_loss(values, old, returns, mask, clip=0.2)
    assert result.loss.item() == pytest.approx(0.5 * (1.0 + 1.69 + 0.16) / 3)
    assert result.clip_fraction.item() == pytest.approx(1 / 3)
    result.loss.backward()
    # (V - R)/3, none where the clipped error is the larger
    torch.testing.assert_close(values.grad, torch.tensor([[1.0 / 3, 0.0, -0.4 / 3, 0.0]]))
    assert value_loss(values, old, returns, mask, clip=None).loss.item() == pytest.approx(0.5 * 2.16 / 3)


def test_losses_of_micro_batches_add_up_to_the_minibatch():
    torch.manual_seed(0)
    new, old, advantages, values, returns = (torch.randn(6, 5) for _ in range(5))
    mask = torch.arange(5).expand(6, 5) < torch.tensor([[5], [1], [3], [2], [4], [5]])
    whole = policy_loss(new, old, advantages, mask, 0.2).loss + value_loss(values, old, returns, mask, 0.2).loss
    parts = sum(
        policy_loss(new[i], old[i], advantages[i], mask[i], 0.2, denominator=20.0).loss
        + value_loss(values[i], old[i], returns[i], mask[i], 0.2, denominator=20.0).loss
        for i in (slice(0, 1), slice(1, 4), slice(4, 6))
    )
    assert mask.sum() == 20
    torch.testing.assert_close(parts, whole)


def test_shapes_must_agree():
    one, mask = torch.zeros(2, 1), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="shapes differ"):
        policy_loss(torch.zeros(2, 3), one, torch.zeros(2, 3), mask, 0.2)
    with pytest.raises(ValueError, match="do not match ids"):
        token_logprobs(torch.zeros(2, 3, 7), torch.zeros(2, 4, dtype=torch.long), 1.0)


def test_importance_weights_by_hand():
    # trainer / sampler: .3/.2 = 1.5, .8/.2 = 4 (cut at 2), .1/.4 = .25; padding 1
    trainer = torch.tensor([[0.3, 0.8, 0.1, 0.0]]).log().requires_grad_()
    sampler = torch.tensor([[0.2, 0.2, 0.4, 0.5]]).log()
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    weights = importance_weights(trainer, sampler, mask, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.5, 2.0, 0.25, 1.0]]))
    assert not weights.requires_grad
    found = sampler_mismatch(trainer, sampler, mask)
    # |ln 1.5| = .4054651, |ln 4| = |ln .25| = 1.3862944
    assert found["sampling/sampling_logp_difference/mean"] == pytest.approx((0.4054651 + 2 * 1.3862944) / 3)
    assert found["sampling/sampling_logp_difference/max"] == pytest.approx(1.3862944)
    assert found["sampling/importance_sampling_ratio/min"] == pytest.approx(0.25)
    assert found["sampling/importance_sampling_ratio/mean"] == pytest.approx((1.5 + 4 + 0.25) / 3)
    assert found["sampling/importance_sampling_ratio/max"] == pytest.approx(4.0)


def test_importance_weights_make_up_for_another_sampler():
    # Tokens 0 and 1 are sampled with .8 and .2 but trained with .5 and .5; the weighted mean of a reward of 1 for
    # token 1 is the trainer's expectation, .5, and a plain mean would be .2.
    sampler, trainer = torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5])
    drawn = torch.tensor([0] * 8 + [1] * 2)
    weights = importance_weights(trainer.log()[drawn][None], sampler.log()[drawn][None], torch.ones(1, 10).bool(), 10.0)
    assert float((weights[0] * drawn).mean()) == pytest.approx(0.5)


def test_a_cap_of_importance_weights_is_positive():
    with pytest.raises(ValueError, match="must be above 0"):
        importance_weights(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1).bool(), cap=0.0)
