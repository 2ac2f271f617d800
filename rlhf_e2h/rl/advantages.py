"""Masked means, generalised advantage estimation and whitening. Pure functions on tensors.

Axes: B rows, T completion tokens. `mask_BT` is True on real tokens; a row's real tokens come first (right padding).
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Silent broadcasting hides mistakes, so every function here starts with this check."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes differ: {shapes}; all must be the same")


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over real tokens. `where` and not a product: NaN or inf at padding must not leak."""
    check_same_shape(values=values, mask=mask)
    return torch.where(mask, values, values.new_zeros(())).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens; 0 where there are none."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0, lam: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), per row of tokens.

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}; the state after the last real token
    is terminal (value 0), also for a completion cut at the length limit.

    Returns:
        advantages_BT, returns_BT = advantages + values; both 0 at padding.
    """
    check_same_shape(rewards=rewards_BT, values=values_BT, mask=mask_BT)
    rewards = torch.where(mask_BT, rewards_BT, rewards_BT.new_zeros(()))
    values = torch.where(mask_BT, values_BT, values_BT.new_zeros(()))
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * following - values
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in range(deltas.shape[1] - 1, -1, -1):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    # at padding all deltas are 0, so nothing flows backwards from there and the result is 0
    return advantages, advantages + values


def moment_sums(values: Tensor, mask: Tensor) -> Tensor:
    """(3,) float64: count, sum, sum of squares over real tokens. Add the vectors of all ranks for global moments."""
    real = values.detach()[mask].double()
    return torch.stack([real.new_tensor(float(real.numel())), real.sum(), real.square().sum()])


def whiten(
    values: Tensor, mask: Tensor, sums: Tensor | None = None, keep_mean: bool = False, eps: float = 1e-8
) -> Tensor:
    """(x - mean) / std over the real tokens of the whole batch; 0 at padding.

    Args:
        sums: `moment_sums` of the global batch, where `values` is only a part of it; default: of `values`.
        keep_mean: divide by the standard deviation only (for rewards, whose sign carries meaning).
    The variance is the population variance.
    """
    check_same_shape(values=values, mask=mask)
    count, total, squares = (moment_sums(values, mask) if sums is None else sums).unbind()
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=0)
    shift = 0.0 if keep_mean else mean
    white = ((values.double() - shift) * torch.rsqrt(variance + eps)).to(values.dtype)
    return torch.where(mask, white, white.new_zeros(()))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over real tokens; 1 is perfect, 0 no better than a constant.

    0 where the returns do not vary, since then there is nothing to explain.
    """
    check_same_shape(values=values, returns=returns, mask=mask)
    target = returns[mask].double()
    error = target - values[mask].double()
    if target.numel() < 2 or target.var(correction=0) < 1e-12:
        return target.new_zeros(())
    return 1 - error.var(correction=0) / target.var(correction=0)
