"""From the probabilities of the steps to one score of the solution.

Source: Sun et al. 2024 (arXiv 2403.09472), appendix L, equations 1 to 7. The answer section counts as a step. The paper
uses `min` for best-of-n and `prod` for weighted voting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# A probability of exactly 0 or 1 (a saturated sigmoid) has no finite log-odds; 1e-7 keeps float32 arithmetic finite.
EDGE = 1e-7

Floats = NDArray[np.float64]


def _log_odds(probs_S: Floats) -> Floats:
    clipped_S = np.clip(probs_S, EDGE, 1 - EDGE)
    return np.log(clipped_S) - np.log1p(-clipped_S)


def _mean_logit(probs_S: Floats) -> float:
    return float(1 / (1 + np.exp(-_log_odds(probs_S).mean())))


def _mean_odd(probs_S: Floats) -> float:
    return float(max(np.exp(_log_odds(probs_S)).mean(), 0.0))


AGGREGATIONS: dict[str, Callable[[Floats], float]] = {
    "min": lambda probs_S: float(probs_S.min()),
    "max": lambda probs_S: float(probs_S.max()),
    "prod": lambda probs_S: float(probs_S.prod()),
    "mean": lambda probs_S: float(probs_S.mean()),
    "mean_logit": _mean_logit,
    "mean_odd": _mean_odd,
    "last": lambda probs_S: float(probs_S[-1]),
}


def aggregate(probs_S: Sequence[float] | Floats, name: str) -> float:
    """One score for a solution from its step probabilities, shape (S,) with S >= 1, each in [0, 1].

    `name` is one of AGGREGATIONS. All lie in [0, 1] except `mean_odd`, the mean of p / (1 - p), which is >= 0.

    Raises:
        ValueError: unknown name, no step, or a value that is not a probability (NaN included).
    """
    if name not in AGGREGATIONS:
        raise ValueError(f"aggregation {name!r} is not known; choose one of {', '.join(AGGREGATIONS)}")
    values_S = np.asarray(probs_S, dtype=np.float64)
    if values_S.ndim != 1 or values_S.size == 0:
        raise ValueError(f"step scores have shape {values_S.shape}; expected one number for each of at least one step")
    if not np.all((values_S >= 0) & (values_S <= 1)):
        raise ValueError(
            f"step scores {values_S.tolist()} are not all in [0, 1]; apply the sigmoid to raw logits first"
        )
    return AGGREGATIONS[name](values_S)
