"""Dataset cartography: what training dynamics say about each example, and which examples to keep.

Swayamdipta et al. 2020 (arXiv 2009.10795). With p_e the probability of the gold class at epoch e of E:

| metric | definition | most valuable first |
|---|---|---|
| confidence | mean of p_e | low (hard to learn) |
| variability | population standard deviation of p_e; with `finite`, sqrt(var + var^2 / (E - 1)) | high (ambiguous) |
| correctness | number of epochs with argmax = gold | low |
| forgetfulness | number of right -> wrong changes; NEVER where it was never right | high |
| threshold_closeness | confidence * (1 - confidence) | high |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

METRICS = ("threshold_closeness", "confidence", "variability", "correctness", "forgetfulness")
ASCENDING = frozenset({"confidence", "correctness"})  # the most valuable are the lowest
NEVER = 1000  # forgetfulness of an example that was never right, as the public code writes it
HEAD = 0.7  # share of a `both` selection that is taken from the most valuable end
REGIONS = ("easy-to-learn", "ambiguous", "hard-to-learn")

Ends = Literal["best", "worst", "both"]


def metrics(gold_NE: ArrayLike, right_NE: ArrayLike, finite: bool = False) -> dict[str, NDArray[np.float64]]:
    """The five metrics, each (N,), in the order of METRICS.

    Args:
        gold_NE: probability of the gold class of N examples at E epochs.
        right_NE: whether the gold class had the highest logit.
        finite: variability corrected for a small number of epochs (`--include_ci` of the public code); needs E >= 2.

    Raises:
        ValueError: shapes differ, nothing there, values outside [0, 1] or NaN, or `finite` with a single epoch.
    """
    gold_NE = np.asarray(gold_NE, dtype=np.float64)
    right_NE = np.asarray(right_NE, dtype=bool)
    if gold_NE.ndim != 2 or gold_NE.shape != right_NE.shape or 0 in gold_NE.shape:
        raise ValueError(
            f"probabilities {gold_NE.shape} and verdicts {right_NE.shape}; both must be examples x epochs, not empty"
        )
    if not (np.isfinite(gold_NE).all() and gold_NE.min() >= 0 and gold_NE.max() <= 1):
        raise ValueError("probabilities of the gold class must be numbers in [0, 1]")
    epochs = gold_NE.shape[1]
    if finite and epochs < 2:
        raise ValueError("the correction for few epochs divides by epochs - 1; log at least 2 epochs")
    confidence_N = gold_NE.mean(axis=1)
    variance_N = gold_NE.var(axis=1)
    correctness_N = right_NE.sum(axis=1)
    changes_N = (right_NE[:, :-1] & ~right_NE[:, 1:]).sum(axis=1)
    return {
        "threshold_closeness": confidence_N * (1 - confidence_N),
        "confidence": confidence_N,
        "variability": np.sqrt(variance_N + variance_N**2 / (epochs - 1) if finite else variance_N),
        "correctness": correctness_N.astype(np.float64),
        "forgetfulness": np.where(correctness_N == 0, NEVER, changes_N).astype(np.float64),
    }


def ranking(metric: str, values_N: ArrayLike) -> NDArray[np.intp]:
    """Indices from most to least valuable by a metric; ties keep the order of the data."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not known; use one of {', '.join(METRICS)}")
    values_N = np.asarray(values_N, dtype=np.float64)
    return np.argsort(values_N if metric in ASCENDING else -values_N, kind="stable")


def select(
    metric: str,
    values_N: ArrayLike,
    confidence_N: ArrayLike,
    fraction: float,
    easy_share: float = 0.0,
    ends: Ends = "best",
) -> list[int]:
    """Indices of exactly floor(fraction * N) examples, each once, in ascending order.

    Args:
        ends: `best` takes the most valuable by `metric`, `worst` the least (confidence with `worst`: easy to learn),
            `both` 70 % from the head and the rest from the tail.
        easy_share: this share of the selection (rounded) is given to the easiest examples, those of the highest
            confidence that are not in it already; they replace its last members.

    Raises:
        ValueError: fraction outside (0, 1], easy_share outside [0, 1], or a selection without a single example.
    """
    order = ranking(metric, values_N)
    count = share_of(len(order), fraction)
    if not 0 <= easy_share <= 1:
        raise ValueError(f"easy_share is {easy_share}; it is a share of the selection, from 0 to 1")
    if ends == "worst":
        order = order[::-1]
    easy = round(easy_share * count)
    wanted = count - easy
    head = wanted if ends != "both" else math.ceil(HEAD * wanted)
    chosen = [int(i) for i in order[:head]]
    if wanted > head:
        chosen += [int(i) for i in order[len(order) - (wanted - head) :]]
    taken = set(chosen)
    easiest = np.argsort(-np.asarray(confidence_N, dtype=np.float64), kind="stable")
    chosen += [int(i) for i in easiest if int(i) not in taken][:easy]
    return sorted(chosen)


def share_of(n: int, fraction: float) -> int:
    """floor(fraction * n), at least 1.

    Raises:
        ValueError: fraction outside (0, 1], or nothing left of n.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must lie above 0 and at most at 1")
    count = math.floor(fraction * n + 1e-9)  # .29 * 100 is 28.999999999999996
    if not count:
        raise ValueError(f"a fraction {fraction} of {n} examples is none; raise it")
    return count


def regions(confidence_N: ArrayLike, variability_N: ArrayLike, ambiguous: float = 1 / 3) -> list[str]:
    """The region of each example on the data map, one each, where the paper's three overlap.

    The share `ambiguous` with the highest variability is ambiguous; of the others, confidence of at least .5 is easy
    to learn and less is hard to learn.
    """
    confidence_N = np.asarray(confidence_N, dtype=np.float64)
    order = ranking("variability", variability_N)
    named: list[str] = [REGIONS[0] if confidence >= 0.5 else REGIONS[2] for confidence in confidence_N]
    for index in order[: share_of(len(order), ambiguous) if len(order) * ambiguous >= 1 else 0]:
        named[int(index)] = REGIONS[1]
    return named


def gold_probabilities(logits_NC: ArrayLike, gold_N: Sequence[int]) -> NDArray[np.float64]:
    """softmax(logits)[gold] of each row, (N,)."""
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    shifted_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    rows = np.arange(len(logits_NC))
    return shifted_NC[rows, np.asarray(gold_N)] / shifted_NC.sum(axis=1)
