"""Losses for a student that learns from a weak supervisor's soft labels. Tensors in, tensors out; no state in here.

With f = sigmoid(logit) = P(class 1), weak soft label y and p_0 = 1 - f, all of shape (B,), every loss but `window` and
`kl` is the mean over the batch of CE(logits, t) for a target t:

    xent      t = y
    logconf   t = (1 - c) y + c hard        hard = 0 iff p_0 >= quantile(the last 32 p_0, prior)
    entropy   t = (1 - c) y + c f           f detached, as is `hard`
    window    sum of CE(logits, y) where max(f, 1 - f) < 1/2 + r, divided by the FULL batch size
    kl        KL(y || f)

Burns et al. 2023 (arXiv 2312.09390), appendix A.4, as revised by EleutherAI/w2s: the prior is the mean label of the
batch and the threshold is adaptive, so that the hardened share follows the labels' own balance.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

LOSSES = ("xent", "logconf", "entropy", "window", "kl")
HISTORY = 32  # predictions from which the adaptive threshold is taken, this batch included


def coefficient(step: int, weight: float = 0.5, warmup: int = 100) -> float:
    """c(step) = weight * min(1, step / warmup); without warm-up it is `weight` from the start."""
    return weight * min(1.0, step / warmup) if warmup > 0 else weight


def extended(history_H: Tensor, logits_B: Tensor, size: int = HISTORY) -> Tensor:
    """The last `size` values of p_0, oldest first: `history_H` and behind it those of this batch; no more."""
    return torch.cat([history_H, 1 - torch.sigmoid(logits_B.detach().float())])[-size:]


def threshold(history_H: Tensor, labels_B: Tensor, prior: float | None = None) -> Tensor:
    """quantile(p_0 in the history, prior); the prior is the mean label, 1/2 (the median) for a single example."""
    if history_H.ndim != 1 or not len(history_H):
        raise ValueError(f"history has shape {tuple(history_H.shape)}; expected (H,) with at least this batch in it")
    if prior is None:
        prior = float(labels_B.float().mean()) if len(labels_B) > 1 else 0.5
    return torch.quantile(history_H.float(), prior)


def balanced(labels_B: Tensor, limit: float = 1e-7) -> Tensor:
    """Soft labels whose mean log-odds is 0 (option `balance_batch`)."""
    odds_B = torch.logit(labels_B.float(), eps=limit)
    return torch.sigmoid(odds_B - odds_B.mean())


def xent(logits_B: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy with soft labels."""
    _check(logits_B, labels_B)
    return F.binary_cross_entropy_with_logits(logits_B.float(), labels_B.float())


def logconf(logits_B: Tensor, labels_B: Tensor, c: float, history_H: Tensor, prior: float | None = None) -> Tensor:
    """Log-confidence: part of the target is the student's own prediction, hardened at the adaptive threshold.

    Args:
        c: `coefficient(step)`.
        history_H: `extended(history, logits_B)`, which holds this batch.
        prior: share of class 1; the mean label if not given, 1/2 with `balanced` labels.
    """
    _check(logits_B, labels_B)
    p0_B = 1 - torch.sigmoid(logits_B.detach().float())
    hard_B = (p0_B < threshold(history_H, labels_B, prior)).float()
    return xent(logits_B, (1 - c) * labels_B.float() + c * hard_B)


def entropy(logits_B: Tensor, labels_B: Tensor, c: float) -> Tensor:
    """As `logconf`, with the student's soft prediction in place of the hardened one."""
    _check(logits_B, labels_B)
    return xent(logits_B, (1 - c) * labels_B.float() + c * torch.sigmoid(logits_B.detach().float()))


def window(logits_B: Tensor, labels_B: Tensor, radius: float = 0.15) -> Tensor:
    """Cross-entropy where the student is unsure; the divisor is the full batch, so sure batches weigh little."""
    _check(logits_B, labels_B)
    logits_B = logits_B.float()
    confidence_B = torch.sigmoid(logits_B.detach().abs())  # max(f, 1 - f)
    losses_B = F.binary_cross_entropy_with_logits(logits_B, labels_B.float(), reduction="none")
    return (losses_B * (confidence_B < 0.5 + radius)).sum() / len(logits_B)


def kl(logits_B: Tensor, labels_B: Tensor) -> Tensor:
    """KL(label || prediction): `xent` less the entropy of the labels, so it is 0 where they agree."""
    _check(logits_B, labels_B)
    y_B = labels_B.float()
    own_B = -(torch.xlogy(y_B, y_B) + torch.xlogy(1 - y_B, 1 - y_B))
    return xent(logits_B, y_B) - own_B.mean()


def midweak_radius(labels_N: Tensor) -> float:
    """Radius of `window` in EleutherAI's runs: the median of |y - 1/2| over the weak labels."""
    return float((labels_N.float() - 0.5).abs().median())


def _check(logits_B: Tensor, labels_B: Tensor) -> None:
    if logits_B.ndim != 1 or logits_B.shape != labels_B.shape or not len(logits_B):
        raise ValueError(
            f"logits have shape {tuple(logits_B.shape)}, labels {tuple(labels_B.shape)}; both must be (B,), B >= 1"
        )
    low, high = float(labels_B.min()), float(labels_B.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or high > 1:
        raise ValueError(f"labels range over [{low:g}, {high:g}]; soft labels are probabilities in [0, 1]")
