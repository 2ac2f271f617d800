"""From step scores to rewards, and from rewards to tokens. Pure functions on tensors.

Axes: B solutions, S steps, T completion tokens. `scores_BS` are probabilities in [0, 1]; `mask_BS` is True on real
steps, which come first. Each scheme returns rewards_BS, 0 at padding. A solution without steps gets no reward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_e2h.rl.advantages import check_same_shape

AGGREGATIONS = ("min", "prod", "mean", "last")


def terminal(scores_BS: Tensor, mask_BS: Tensor, aggregation: str = "min") -> Tensor:
    """One number for the whole solution, in the slot of its last step; `place` puts it on the last real token."""
    zeros = torch.zeros_like(scores_BS)
    if scores_BS.shape[1] == 0:
        return zeros
    counts = mask_BS.sum(1)
    last = (counts - 1).clamp(min=0).unsqueeze(1)
    if aggregation == "min":
        whole = torch.where(mask_BS, scores_BS, torch.full_like(scores_BS, torch.inf)).amin(1)
    elif aggregation == "prod":
        whole = torch.where(mask_BS, scores_BS, torch.ones_like(scores_BS)).prod(1)
    elif aggregation == "mean":
        whole = torch.where(mask_BS, scores_BS, zeros).sum(1) / counts.clamp(min=1)
    elif aggregation == "last":
        whole = scores_BS.gather(1, last).squeeze(1)
    else:
        raise ValueError(f"aggregation {aggregation!r} is unknown; use one of {', '.join(AGGREGATIONS)}")
    return _real(zeros.scatter(1, last, whole.unsqueeze(1)), mask_BS)


def sum_scores(scores_BS: Tensor, mask_BS: Tensor, offset: float = 0.0) -> Tensor:
    """r_k = p_k - offset. With offset 0 every extra step pays, so policies learn to add steps."""
    return _real(scores_BS - offset, mask_BS)


def min_decrement(scores_BS: Tensor, mask_BS: Tensor, upper_bound: float = 1.0, bonus: float = 0.25) -> Tensor:
    """The easy-to-hard paper's code, scheme `min`: each step pays for lowering the running minimum.

    m_0 = upper_bound, m_k = min(m_{k-1}, p_k), r_k = m_k - m_{k-1} + bonus / (K + 1e-6); so the rewards add up to
    min(upper_bound, p_1..p_K) - upper_bound + bonus, and extra steps earn nothing.
    """
    return _decrements(scores_BS, mask_BS, upper_bound, bonus)


def prod_decrement(scores_BS: Tensor, mask_BS: Tensor, upper_bound: float = 1.0, bonus: float = 0.25) -> Tensor:
    """The paper's code, scheme `prod`: `min_decrement` on the running products p_1 ... p_k."""
    return _decrements(_real(scores_BS, mask_BS, 1.0).cumprod(1), mask_BS, upper_bound, bonus)


def min_form(scores_BS: Tensor, mask_BS: Tensor, temperature: float = 0.1, offset: float = 0.0) -> Tensor:
    """PURE (Cheng et al. 2025, "Stop Summation", arXiv 2504.15275): r_k = softmax(-q / temperature)_k * q_k.

    q = p - offset. The sum of rewards tends to the smallest q as the temperature goes to 0.
    """
    if temperature <= 0:
        raise ValueError(f"min_form needs temperature > 0, found {temperature}; PURE uses 0.1")
    if scores_BS.shape[1] == 0:
        return torch.zeros_like(scores_BS)
    shifted = scores_BS - offset
    logits = torch.where(mask_BS, -shifted / temperature, torch.full_like(shifted, -torch.inf))
    # a row without steps would be softmax of -inf only, that is NaN; its result is masked away anyway
    logits = torch.where(mask_BS.any(1, keepdim=True), logits, torch.zeros_like(logits))
    return _real(logits.softmax(1) * shifted, mask_BS)


def potential(scores_BS: Tensor, mask_BS: Tensor, initial: float = 0.5, closed: bool = False) -> Tensor:
    """Differences of a potential (Ng et al. 1999, gamma = 1): r_k = p_k - p_{k-1}, p_0 = initial.

    The rewards add up to p_K - initial. `closed` sets the potential of the finished solution to 0, which is the form
    that provably leaves the optimal policy of the *other* rewards unchanged: it then adds up to -initial for all.
    """
    before = torch.cat([torch.full_like(scores_BS[:, :1], initial), scores_BS[:, :-1]], dim=1)
    rewards = scores_BS - before
    if closed and scores_BS.shape[1]:
        last = (mask_BS.sum(1) - 1).clamp(min=0).unsqueeze(1)
        rewards = rewards.scatter_add(1, last, -scores_BS.gather(1, last))
    return _real(rewards, mask_BS)


SCHEMES: dict[str, Callable[..., Tensor]] = {
    "terminal": terminal,
    "sum": sum_scores,
    "min_decrement": min_decrement,
    "prod_decrement": prod_decrement,
    "min_form": min_form,
    "potential": potential,
}


def check_scheme(scheme: str, options: dict[str, float | str | bool]) -> None:
    """Raise ValueError for an unknown scheme or option; called when a configuration is read."""
    if scheme not in SCHEMES:
        raise ValueError(f"step reward scheme {scheme!r} is unknown; use one of {', '.join(SCHEMES)}")
    allowed = list(inspect.signature(SCHEMES[scheme]).parameters)[2:]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"step reward scheme {scheme!r} has no option {unknown[0]!r}; it has {', '.join(allowed)}")


def shape_rewards(scheme: str, scores_BS: Tensor, mask_BS: Tensor, **options: float | str | bool) -> Tensor:
    """rewards_BS of the named scheme."""
    check_scheme(scheme, options)
    check_same_shape(scores=scores_BS, mask=mask_BS)
    return SCHEMES[scheme](_real(scores_BS, mask_BS), mask_BS, **options)


def place(rewards_BS: Tensor, tokens_BS: Tensor, mask_BS: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T) rewards: each step's reward on the token that ends it; several steps on one token add up.

    Args:
        tokens_BS: index (0-based, in the completion) of the token that ends each step; ignored at padding.
    Raises:
        ValueError: an index lies outside its row's real tokens. Better than a reward that is silently lost.
    """
    check_same_shape(rewards=rewards_BS, tokens=tokens_BS, mask=mask_BS)
    lengths = mask_BT.sum(1, keepdim=True)
    outside = mask_BS & ((tokens_BS < 0) | (tokens_BS >= lengths))
    if outside.any():
        row, step = (int(i) for i in outside.nonzero()[0])
        raise ValueError(
            f"step {step} of row {row} ends on token {int(tokens_BS[row, step])}, but the row has "
            f"{int(lengths[row])} tokens; {int(outside.sum())} steps in all lie outside their completions"
        )
    index = torch.where(mask_BS, tokens_BS, torch.zeros_like(tokens_BS))
    placed = rewards_BS.new_zeros(mask_BT.shape)
    return placed.scatter_add(1, index, _real(rewards_BS, mask_BS)) if rewards_BS.shape[1] else placed


def _decrements(levels_BS: Tensor, mask_BS: Tensor, upper_bound: float, bonus: float) -> Tensor:
    start = levels_BS.new_full((levels_BS.shape[0], 1), upper_bound)
    running = torch.cat([start, levels_BS], dim=1).cummin(1).values
    share = bonus / (mask_BS.sum(1, keepdim=True) + 1e-6)
    return _real(running[:, 1:] - running[:, :-1] + share, mask_BS)


def _real(values_BS: Tensor, mask_BS: Tensor, padding: float = 0.0) -> Tensor:
    return torch.where(mask_BS, values_BS, values_BS.new_full((), padding))
