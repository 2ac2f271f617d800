"""Estimators of KL(policy || reference) from sampled tokens, and controllers of its coefficient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_e2h.rl.advantages import check_same_shape

ESTIMATORS = ("k1", "k2", "k3", "k1_clamped")


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Per-token estimate of KL(policy || reference) at tokens sampled from the policy (Schulman 2020, "Approximating
    KL divergence").

    k1 = log pi - log ref (unbiased, may be negative); k2 = k1^2 / 2 (biased, low variance);
    k3 = e^-k1 - 1 + k1 (unbiased, never negative); k1_clamped = max(k1, 0), biased, kept only to reproduce the
    easy-to-hard paper's code.
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    log_ratio = logprobs - ref_logprobs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    if kind == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    if kind == "k1_clamped":
        return log_ratio.clamp(min=0)
    raise ValueError(f"KL estimator {kind!r} is unknown; use one of {', '.join(ESTIMATORS)}")


@dataclass
class FixedKL:
    """A constant coefficient."""

    coefficient: float

    def update(self, kl: float, rollouts: int) -> None:
        """Nothing to adapt."""


@dataclass
class AdaptiveKL:
    """Proportional controller (Ziegler et al. 2019, section 2.2): steers the mean KL of a completion towards `target`.

    coefficient *= 1 + clip(kl / target - 1, -0.2, 0.2) * rollouts / horizon
    """

    coefficient: float
    target: float  # nats per completion
    horizon: float  # rollouts over which the coefficient may change by a factor of about e^0.2

    def update(self, kl: float, rollouts: int) -> None:
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * rollouts / self.horizon


def kl_controller(coefficient: float, target: float | None, horizon: float) -> FixedKL | AdaptiveKL:
    """Fixed without a target, adaptive with one."""
    return FixedKL(coefficient) if target is None else AdaptiveKL(coefficient, target, horizon)
