"""Linear heads on frozen states: the student of a probe study, in each loss of weak-to-strong, and its labels' probes.

States are reduced to their first principal components, unlabelled, which makes hundreds of fits cheap. How strongly the
head is regularised is chosen on a fifth of the problems whose labels it learns from, by those same labels: no other
label is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.metrics import auc
from rlhf_e2h.studies.probes import LinearProbe, fit_logistic
from rlhf_e2h.studies.weak_to_strong import losses

Floats = NDArray[np.floating]
PENALTIES = (0.003, 0.03, 0.3)


def reduced(states_ND: Floats, fit_on_N: NDArray[np.bool_], components: int) -> Floats:
    """The first principal components (N, C) of the states, found on the chosen rows, each of variance 1 there."""
    from sklearn.decomposition import PCA

    most = min(components or states_ND.shape[1], *states_ND[fit_on_N].shape)
    pca = PCA(most, svd_solver="randomized" if most < 500 else "auto", random_state=0)
    found_NC = pca.fit(states_ND[fit_on_N]).transform(states_ND)
    scale_C = found_NC[fit_on_N].std(0)
    return np.asarray(found_NC / np.where(scale_C > 0, scale_C, 1.0), dtype=np.float64)


def chosen_penalty(
    x_NC: Floats, labels_N: Floats, problem_N: Sequence[str], penalties: Sequence[float] = PENALTIES
) -> float:
    """The L2 penalty whose probe, fitted on four fifths of the problems, agrees best with the labels of the last."""
    if len(penalties) == 1:
        return penalties[0]
    names = sorted(set(problem_N))
    held = set(np.random.default_rng(0).permutation(names)[: max(1, len(names) // 5)].tolist())
    held_N = np.array([name in held for name in problem_N])
    fit_N = labels_N[~held_N]
    if not len(fit_N) or fit_N.max() == 0 or fit_N.min() == 1:
        return penalties[-1]
    if len(set((labels_N[held_N] > 0.5).tolist())) < 2:
        return penalties[-1]
    tried = [fit_logistic(x_NC[~held_N], fit_N, l2).predict(x_NC[held_N]) for l2 in penalties]
    found = [auc((labels_N[held_N] > 0.5).astype(int), scores) or 0.0 for scores in tried]
    return penalties[int(np.argmax(found))]


def probe(x_NC: Floats, labels_N: Floats, problem_N: Sequence[str]) -> LinearProbe:
    """A logistic probe with the penalty that `chosen_penalty` finds."""
    return fit_logistic(x_NC, labels_N, chosen_penalty(x_NC, labels_N, problem_N))


@dataclass
class HeadSettings:
    """How a head is trained by gradient descent, for losses that no solver has."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-2
    warmup: int = 100  # steps of logconf and entropy until their weight is reached
    weight: float = 0.5


def fit_head(
    x_NC: Floats, labels_N: Floats, penalty: float, loss: str = "xent", settings: HeadSettings | None = None,
    seed: int = 0, after_epoch: Callable[[int, Floats], None] | None = None, every_NC: Floats | None = None,
) -> LinearProbe:  # fmt: skip
    """A linear head by Adam on a weak-to-strong loss plus penalty * |w|^2, from zero.

    Args:
        after_epoch: called with the epoch and the logits (M,) of `every_NC` (or of x), in evaluation mode.
    """
    settings = settings or HeadSettings()
    x, y = torch.tensor(x_NC, dtype=torch.float32), torch.tensor(labels_N, dtype=torch.float32)
    every = x if every_NC is None else torch.tensor(every_NC, dtype=torch.float32)
    w, b = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([w, b], lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    history, step = torch.zeros(0), 0
    radius = losses.midweak_radius(y)
    for epoch in range(settings.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(settings.batch_size):
            logits = x[rows] @ w + b
            history = losses.extended(history, logits)
            c = losses.coefficient(step, settings.weight, settings.warmup)
            value = _loss(loss, logits, y[rows], c, history, radius)
            optimiser.zero_grad()
            (value + penalty * (w * w).sum()).backward()
            optimiser.step()
            step += 1
        if after_epoch:
            after_epoch(epoch, (every @ w + b).detach().numpy())
    dims = x.shape[1]
    return LinearProbe(w.detach().numpy().astype(float), float(b.detach()), np.zeros(dims), np.ones(dims))


def _loss(
    name: str, logits_B: torch.Tensor, labels_B: torch.Tensor, c: float, history_H: torch.Tensor, radius: float
) -> torch.Tensor:
    if name == "logconf":
        return losses.logconf(logits_B, labels_B, c, history_H)
    if name == "entropy":
        return losses.entropy(logits_B, labels_B, c)
    if name == "window":
        return losses.window(logits_B, labels_B, radius)
    return {"xent": losses.xent, "kl": losses.kl}[name](logits_B, labels_B)
