"""How good step and outcome probabilities are. Pure numpy; `None` where a figure is undefined (one class only)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auc(labels_B: ArrayLike, scores_B: ArrayLike) -> float | None:
    """Area under the ROC curve: probability that a positive outranks a negative, ties counting half.

    `labels_B` are 0 or 1. None if a class is absent.
    """
    labels, scores = _pair(labels_B, scores_B)
    (value,) = weighted_auc(labels, scores, np.ones((1, len(labels))))
    return None if np.isnan(value) else float(value)


def weighted_auc(
    labels_B: ArrayLike, scores_B: ArrayLike, weights_DB: Iterable[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """AUC (D,) under each of D weightings of the items, such as the multiplicities of a bootstrap; NaN without a class.

    The weighted Mann-Whitney statistic: sum of w_i w_j over positives i and negatives j with s_i > s_j, ties counting
    half, over the sum of all w_i w_j.
    """
    labels, scores = _pair(labels_B, scores_B)
    values, place_B = np.unique(scores, return_inverse=True)
    found = []
    for weights_B in weights_DB:
        positive, negative = (
            np.bincount(place_B, weights=weights_B * chosen, minlength=len(values)) for chosen in (labels, ~labels)
        )
        total = positive.sum() * negative.sum()
        found.append((positive * (np.cumsum(negative) - negative / 2)).sum() / total if total > 0 else np.nan)
    return np.array(found, dtype=np.float64)


def accuracy(labels_B: ArrayLike, probs_B: ArrayLike, threshold: float = 0.5) -> float | None:
    """Share of labels on the right side of the threshold (a probability equal to it says 1); None without labels."""
    labels, probs = _pair(labels_B, probs_B)
    return float(((probs >= threshold) == labels).mean()) if len(labels) else None


def balanced_accuracy(labels_B: ArrayLike, probs_B: ArrayLike, threshold: float = 0.5) -> float | None:
    """Mean of the accuracies on ones and on zeros; None if a class is absent.

    It is the accuracy that is expected on a set balanced by drawing as many of either class, as in Table 10 of Sun et
    al. 2024, without the chance of such a draw.
    """
    labels, probs = _pair(labels_B, probs_B)
    _, (value,) = weighted_accuracy(labels, probs, np.ones((1, len(labels))), threshold)
    return None if np.isnan(value) else float(value)


def weighted_accuracy(
    labels_B: ArrayLike, probs_B: ArrayLike, weights_DB: Iterable[NDArray[np.float64]], threshold: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy and balanced accuracy under each of D weightings of the items, (D,) each; NaN where undefined."""
    labels, probs = _pair(labels_B, probs_B)
    hit_B = (probs >= threshold) == labels
    parts = [chosen.astype(np.float64) for chosen in (labels, ~labels, labels & hit_B, ~labels & hit_B)]
    sums_D4 = np.array([[weights_B @ part for part in parts] for weights_B in weights_DB]).reshape(-1, 4)
    total_D2, hit_D2 = sums_D4[:, :2], sums_D4[:, 2:]
    with np.errstate(invalid="ignore"):
        return hit_D2.sum(1) / total_D2.sum(1), (hit_D2 / total_D2).mean(1)


def roc_curve(labels_B: ArrayLike, scores_B: ArrayLike, most: int = 100) -> list[dict[str, float]]:
    """Points of the ROC curve from (0, 0) to (1, 1), at most `most` between; empty if a class is absent.

    Each has `threshold` (the least score called positive), `false_positive` and `true_positive` rate.
    """
    labels, scores = _pair(labels_B, scores_B)
    if labels.all() or not labels.any():
        return []
    values, place_B = np.unique(scores, return_inverse=True)
    ones, zeros = (np.bincount(place_B, weights=chosen, minlength=len(values)) for chosen in (labels, ~labels))
    true_V, false_V = (np.cumsum(counts[::-1]) / counts.sum() for counts in (ones, zeros))
    chosen = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))
    start = {"threshold": float(values[-1]), "false_positive": 0.0, "true_positive": 0.0}
    return [start] + [
        {
            "threshold": float(values[::-1][index]),
            "false_positive": float(false_V[index]),
            "true_positive": float(true_V[index]),
        }
        for index in chosen
    ]


def calibration_error(labels_B: ArrayLike, probs_B: ArrayLike, bins: int = 10) -> float | None:
    """Expected calibration error: mean distance of stated and observed frequency over equal-width bins.

    Naeini et al. 2015: sum over bins of (count / total) * |mean label - mean probability|. None without labels.
    """
    labels, probs = _pair(labels_B, probs_B)
    if not len(labels):
        return None
    (value,) = weighted_calibration_error(labels, probs, np.ones((1, len(labels))), bins)
    return float(value)


def weighted_calibration_error(
    labels_B: ArrayLike, probs_B: ArrayLike, weights_DB: Iterable[NDArray[np.float64]], bins: int = 10
) -> NDArray[np.float64]:
    """The same under each of D weightings of the items, shape (D,); NaN where all weights are 0."""
    labels, probs = _pair(labels_B, probs_B)
    bin_B = np.minimum((probs * bins).astype(int), bins - 1)
    found = []
    for weights_B in weights_DB:
        gaps, total = np.bincount(bin_B, weights=weights_B * (labels - probs), minlength=bins), weights_B.sum()
        found.append(np.abs(gaps).sum() / total if total > 0 else np.nan)
    return np.array(found, dtype=np.float64)


def calibration_curve(labels_B: ArrayLike, probs_B: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """The reliability diagram behind `calibration_error`: one row a non-empty bin of equal width, from low to high.

    Each row has `low` (lower edge of the bin), `score` (mean probability), `observed` (share of ones) and `n`.
    """
    labels, probs = _pair(labels_B, probs_B)
    bin_B = np.minimum((probs * bins).astype(int), bins - 1)
    return [
        {
            "low": index / bins,
            "score": float(probs[bin_B == index].mean()),
            "observed": float(labels[bin_B == index].mean()),
            "n": int((bin_B == index).sum()),
        }
        for index in np.unique(bin_B).tolist()
    ]


def weighted_calibration_curve(
    labels_B: ArrayLike, probs_B: ArrayLike, weights_DB: Iterable[NDArray[np.float64]], bins: int = 10
) -> NDArray[np.float64]:
    """`observed` of each row of `calibration_curve` under each of D weightings, shape (D, K); NaN where all are 0."""
    labels, probs = _pair(labels_B, probs_B)
    _, bin_B = np.unique(np.minimum((probs * bins).astype(int), bins - 1), return_inverse=True)
    count = int(bin_B.max()) + 1 if len(bin_B) else 0
    found = []
    for weights_B in weights_DB:
        ones, total = (np.bincount(bin_B, weights=w, minlength=count) for w in (weights_B * labels, weights_B))
        found.append(np.divide(ones, total, out=np.full(count, np.nan), where=total > 0))
    return np.array(found, dtype=np.float64)


def first_error(probs_S: Sequence[float], threshold: float = 0.5) -> int:
    """Index of the first step below the threshold, -1 if there is none."""
    return next((index for index, prob in enumerate(probs_S) if prob < threshold), -1)


def first_error_f1(
    gold_B: Sequence[int], probs_BS: Sequence[Sequence[float]], threshold: float = 0.5
) -> dict[str, float | None]:
    """The ProcessBench metric (arXiv 2412.06559): locate the first wrong step, -1 for a solution without one.

    Returns `error` (accuracy on wrong solutions), `correct` (accuracy on right ones) and `f1`, their harmonic mean; a
    figure whose solutions are absent is None, and so is f1 then.
    """
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for gold, probs in zip(gold_B, probs_BS, strict=True):
        hits[gold >= 0].append(first_error(probs, threshold) == gold)
    error, correct = (float(np.mean(hits[key])) if hits[key] else None for key in (True, False))
    if error is None or correct is None:
        return {"error": error, "correct": correct, "f1": None}
    return {
        "error": error,
        "correct": correct,
        "f1": 2 * error * correct / (error + correct) if error + correct else 0.0,
    }


def histogram(probs_B: ArrayLike, bins: int = 10) -> list[int]:
    """Counts of probabilities in equal-width bins over [0, 1]."""
    return np.histogram(np.asarray(probs_B, dtype=np.float64), bins=bins, range=(0, 1))[0].tolist()


def _pair(labels_B: ArrayLike, scores_B: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, scores = np.asarray(labels_B), np.asarray(scores_B, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels have shape {labels.shape}, scores {scores.shape}; both must be (B,)")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels contain {np.setdiff1d(labels, (0, 1))[:3].tolist()}; only 0 and 1 are allowed")
    return labels.astype(bool), scores
