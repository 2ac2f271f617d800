"""Find wrong labels from training dynamics with a classifier that has seen injected ones.

Swayamdipta et al. 2020 (arXiv 2009.10795), section 5: flip the labels of some easy-to-learn examples, train again, fit
a classifier on (confidence, variability) that tells the flipped examples from as many others, apply it to the map of
the original labels.

A classifier trained on equal numbers says what is *more likely flipped than not if half of all labels are wrong*, and
with few wrong labels most of what it flags is right. So its odds are multiplied with the odds of a wrong label in the
data, estimated from the data by expectation maximisation (Saerens, Latinne and Decaestecker 2002, "Adjusting the
outputs of a classifier to new a priori probabilities").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUSPECTS = "suspects.jsonl"  # what a mislabel stage writes, the most suspect first
ROUNDS = 1000  # of expectation maximisation, which converges long before
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Suspects:
    """Probability of a wrong label for each example (N,), and the share of wrong labels that was estimated."""

    probability: NDArray[np.float64]
    prior: float


def detect(
    injected_features_NF: ArrayLike,
    flipped_N: ArrayLike,
    features_MF: ArrayLike,
    trusted_N: ArrayLike | None = None,
    seed: int = 0,
    balanced: bool = False,
) -> Suspects:
    """Suspect labels among M examples, from the dynamics of N examples of which some were flipped.

    Args:
        injected_features_NF: dynamics of the run with injected flips, usually confidence and variability.
        flipped_N: which of its labels were flipped.
        features_MF: dynamics of the run to be searched, the same features.
        trusted_N: which of the N may stand for right labels, for example those that a model without the flips agrees
            with; all by default. Wrong labels among the examples of right ones limit how sure the classifier can be.
        seed: of the choice of unflipped examples, as many as there are flipped ones.
        balanced: leave the prior at one half, as the paper does.

    Raises:
        ValueError: only one of the two classes among `flipped_N`, or features that do not match.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known_NF, searched_MF = np.asarray(injected_features_NF, float), np.asarray(features_MF, float)
    flipped_N = np.asarray(flipped_N, dtype=bool)
    if known_NF.ndim != 2 or searched_MF.ndim != 2 or known_NF.shape[1] != searched_MF.shape[1]:
        raise ValueError(
            f"features {known_NF.shape} and {searched_MF.shape}; both must be examples x the same features"
        )
    if len(flipped_N) != len(known_NF):
        raise ValueError(f"{len(flipped_N)} flip marks for {len(known_NF)} examples; give one each")
    if flipped_N.all() or not flipped_N.any():
        raise ValueError(
            f"{int(flipped_N.sum())} of {len(flipped_N)} labels are flipped; the classifier needs both kinds, "
            "so inject some and leave some"
        )
    flipped, clean = np.flatnonzero(flipped_N), np.flatnonzero(~flipped_N)
    if trusted_N is not None:
        clean = np.flatnonzero(~flipped_N & np.asarray(trusted_N, dtype=bool))
        if not len(clean):
            raise ValueError("no unflipped label is trusted, so nothing stands for right labels; train longer")
    chosen = np.random.default_rng(seed).choice(clean, size=min(len(flipped), len(clean)), replace=False)
    rows = np.concatenate([flipped, np.sort(chosen)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, class_weight="balanced", max_iter=1000))
    classifier.fit(known_NF[rows], flipped_N[rows])
    probability_M = classifier.predict_proba(searched_MF)[:, 1]
    return Suspects(probability_M, 0.5) if balanced else with_prior(probability_M)


def with_prior(balanced_M: ArrayLike) -> Suspects:
    """Probabilities of a classifier trained at even odds, corrected for the share of positives in these very data."""
    odds_M = np.clip(np.asarray(balanced_M, dtype=np.float64), 1e-12, 1 - 1e-12)
    odds_M = odds_M / (1 - odds_M)
    prior = 0.5
    for _ in range(ROUNDS):
        weighted_M = odds_M * prior / (1 - prior)
        probability_M = weighted_M / (1 + weighted_M)
        updated = float(np.clip(probability_M.mean(), 1e-6, 1 - 1e-6))
        if abs(updated - prior) < TOLERANCE:
            break
        prior = updated
    return Suspects(probability_M, prior)


def f1(flagged: ArrayLike, truth: ArrayLike) -> dict[str, float | None]:
    """Precision, recall and F1 of flagged labels; None where a figure has no denominator."""
    flagged, truth = np.asarray(flagged, dtype=bool), np.asarray(truth, dtype=bool)
    hits = int((flagged & truth).sum())
    total = int(flagged.sum()) + int(truth.sum())
    return {
        "precision": hits / int(flagged.sum()) if flagged.any() else None,
        "recall": hits / int(truth.sum()) if truth.any() else None,
        "f1": 2 * hits / total if total else None,
    }
