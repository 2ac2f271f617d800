"""PPO's clipped losses (Schulman et al. 2017) and token log-probabilities. Pure functions on tensors.

A loss is a sum over real tokens divided by `denominator`. Given the token count of the whole minibatch there, the
losses of micro-batches add up to the loss of the minibatch, whatever the split.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_e2h.rl.advantages import check_same_shape, masked_sum


class PolicyLoss(NamedTuple):
    loss: Tensor  # scalar with gradient
    approx_kl: Tensor  # mean of (log ratio)^2 / 2, as in TRL
    clip_fraction: Tensor  # share of tokens whose clipped term is the larger loss
    ratio: Tensor  # mean of pi / pi_old


class ValueLoss(NamedTuple):
    loss: Tensor
    clip_fraction: Tensor


def token_logprobs(logits_BTV: Tensor, ids_BT: Tensor, temperature: float) -> Tensor:
    """(B, T) log-probability of each token under softmax(logits / temperature), in float32."""
    if logits_BTV.shape[:-1] != ids_BT.shape:
        raise ValueError(f"logits {tuple(logits_BTV.shape)} do not match ids {tuple(ids_BT.shape)}")
    logits = _tempered(logits_BTV, temperature)
    return logits.gather(-1, ids_BT.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def token_entropy(logits_BTV: Tensor, temperature: float) -> Tensor:
    """(B, T) entropy in nats of softmax(logits / temperature)."""
    logprobs = _tempered(logits_BTV, temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1 else logits.float() / temperature  # one copy less of a large tensor


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip: float,
    denominator: Tensor | float | None = None,
    weights_BT: Tensor | None = None,
) -> PolicyLoss:
    """max(-A ratio, -A clamp(ratio, 1 - clip, 1 + clip)) over real tokens (eq. 7 of the paper, as a loss).

    Args:
        denominator: divide the sums by this; default: the number of real tokens.
        weights_BT: truncated importance weights that correct for a sampler whose log-probabilities differ from the
            trainer's; constants, no gradient flows through them.
    """
    check_same_shape(logprobs=logprobs_BT, old=old_logprobs_BT, advantages=advantages_BT, mask=mask_BT)
    zero = logprobs_BT.new_zeros(())
    # padding gets ratio 1 before exp, so that no inf appears whose gradient would be NaN
    log_ratio = torch.where(mask_BT, logprobs_BT - old_logprobs_BT, zero)
    ratio = log_ratio.exp()
    plain = -advantages_BT * ratio
    clipped = -advantages_BT * ratio.clamp(1 - clip, 1 + clip)
    per_token = torch.maximum(plain, clipped)
    if weights_BT is not None:
        check_same_shape(logprobs=logprobs_BT, weights=weights_BT)
        per_token = per_token * weights_BT.detach()
    count = mask_BT.sum().clamp(min=1) if denominator is None else denominator
    with torch.no_grad():
        approx_kl = masked_sum(log_ratio.square() / 2, mask_BT) / count
        clip_fraction = masked_sum((clipped > plain).to(ratio.dtype), mask_BT) / count
        mean_ratio = masked_sum(ratio, mask_BT) / count
    return PolicyLoss(masked_sum(per_token, mask_BT) / count, approx_kl, clip_fraction, mean_ratio)


def importance_weights(logprobs_BT: Tensor, sampler_BT: Tensor, mask_BT: Tensor, cap: float) -> Tensor:
    """min(pi_trainer / pi_sampler, cap) for each token, 1 at padding; no gradient.

    Truncated importance sampling (Ionides 2008): makes up for a sampler (another engine, another precision) that draws
    from a slightly different distribution than the trainer's, and bounds the variance that this costs.
    """
    check_same_shape(logprobs=logprobs_BT, sampler=sampler_BT, mask=mask_BT)
    if cap <= 0:
        raise ValueError(f"the cap of importance weights is {cap}; it must be above 0, and 2 is usual")
    difference = torch.where(mask_BT, logprobs_BT - sampler_BT, logprobs_BT.new_zeros(()))
    return difference.detach().exp().clamp(max=cap)


def sampler_mismatch(logprobs_BT: Tensor, sampler_BT: Tensor, mask_BT: Tensor) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the trainer's, over real tokens, under TRL's metric names."""
    check_same_shape(logprobs=logprobs_BT, sampler=sampler_BT, mask=mask_BT)
    difference = (logprobs_BT - sampler_BT)[mask_BT].detach().double()
    ratio = difference.exp()
    return {
        "sampling/sampling_logp_difference/mean": float(difference.abs().mean()),
        "sampling/sampling_logp_difference/max": float(difference.abs().max()),
        "sampling/importance_sampling_ratio/min": float(ratio.min()),
        "sampling/importance_sampling_ratio/mean": float(ratio.mean()),
        "sampling/importance_sampling_ratio/max": float(ratio.max()),
    }


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    clip: float | None,
    denominator: Tensor | float | None = None,
) -> ValueLoss:
    """Half of max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2) over real tokens; clip None: no clipping."""
    check_same_shape(values=values_BT, old=old_values_BT, returns=returns_BT, mask=mask_BT)
    # padding gets error 0 before squaring: the gradient of NaN * 0 would be NaN
    values_BT = torch.where(mask_BT, values_BT, values_BT.new_zeros(()))
    returns_BT = torch.where(mask_BT, returns_BT, returns_BT.new_zeros(()))
    plain = (values_BT - returns_BT).square()
    if clip is None:
        worst, hit = plain, torch.zeros_like(plain)
    else:
        bounded = torch.minimum(torch.maximum(values_BT, old_values_BT - clip), old_values_BT + clip)
        clipped = (bounded - returns_BT).square()
        worst, hit = torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype)
    count = mask_BT.sum().clamp(min=1) if denominator is None else denominator
    return ValueLoss(0.5 * masked_sum(worst, mask_BT) / count, masked_sum(hit.detach(), mask_BT) / count)
