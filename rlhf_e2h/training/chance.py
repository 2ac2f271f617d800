"""Whether a reward model has learnt anything: the interval of its AUC, and the spread of its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reward_models.kinds import kind_of
from reward_models.records import Stepwise

NO_SPREAD = 0.01  # a standard deviation of probabilities below which all solutions get about the same score
Z = 1.96


def auc_interval(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval of an AUC (Hanley and McNeil 1982, equations 1 and 2), within [0, 1]."""
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    square = auc * auc
    variance = auc * (1 - auc) + (positives - 1) * (q1 - square) + (negatives - 1) * (q2 - square)
    half = Z * math.sqrt(max(0.0, variance) / (positives * negatives))
    return max(0.0, auc - half), min(1.0, auc + half)


def at_chance(kind: str, metrics: Mapping[str, Any], validation: Sequence[Stepwise], train_loss: float) -> str | None:
    """What to say of a reward model that ranks no better than chance on held-out problems; None where it does."""
    judge = kind_of(kind)
    what, auc = judge.unit, metrics.get(judge.selection)
    labels = [label for record in validation for label in judge.truths(record)]
    positives, negatives = labels.count(1), labels.count(0)
    advice = (
        "check what the labels say (a few records by hand), give more problems or samples, or raise "
        "training.learning_rate or training.num_train_epochs; what uses this model now follows noise"
    )
    spread = metrics.get("score_spread")
    flat = f", its scores differ by {spread:.3f} (standard deviation)" if spread is not None else ""
    if spread is not None and spread < NO_SPREAD:
        return (
            f"it has learnt next to nothing: held-out scores are all about the same{flat}, training loss "
            f"{train_loss:.3f}; {advice}"
        )
    if auc is None or not positives or not negatives:
        return None  # of one class: nothing can be said
    low, high = auc_interval(auc, positives, negatives)
    if low > 0.5:
        return None
    return (
        f"it ended at chance: {what} AUC {auc:.2f} [{low:.2f}, {high:.2f}] on {positives} right and {negatives} wrong "
        f"held-out {'solutions' if what == 'outcome' else 'steps'}{flat}, training loss {train_loss:.3f}; {advice}"
    )
