"""Intervals of a reward model's metrics: whole problems are resampled.

Steps of a solution, and solutions of a problem, are not independent; drawing them one by one would make intervals too
narrow. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models import metrics
from reward_models.evaluation import first_error_of, judgements
from reward_models.kinds import kind_of
from reward_models.records import Stepwise
from reward_models.score import StepScores

DRAWS = 200
Floats = NDArray[np.float64]
Ends = tuple[float, float]


class _Draws:
    """Bootstrap multiplicities of problems, handed out as weights of items that belong to them."""

    def __init__(self, problems_B: Sequence[str], draws: int, seed: int) -> None:
        names = sorted(set(problems_B))
        place = {name: index for index, name in enumerate(names)}
        self._place_B = np.array([place[name] for name in problems_B], dtype=np.int64)
        share = np.full(len(names), 1 / max(len(names), 1))
        self._drawn_DP = np.random.default_rng(seed).multinomial(len(names), share, size=draws).astype(np.float64)

    def weights(self, of: Sequence[int]) -> Iterator[Floats]:
        """One weighting a draw for items that belong to the records `of`; one at a time, since banks are large."""
        place = self._place_B[np.array(of, dtype=np.int64)]
        return (drawn_P[place] for drawn_P in self._drawn_DP)


def intervals(
    records: Sequence[Stepwise],
    scored: Sequence[StepScores],
    kind: str,
    problems_B: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Ends | None]:
    """95 % percentile intervals of the AUCs and accuracies (plain and balanced) of steps and outcomes, of
    `calibration_error` and `first_error_f1`.

    The metrics are those of `evaluation.compare` on the same records; `problems_B` names the problem of each. None
    where a metric is undefined in more than half of the draws.
    """
    drawn = _Draws(problems_B, draws, seed)
    kept = [i for i, scores in enumerate(scored) if not scores.skipped]
    steps = [
        (i, label, prob)
        for i in kept
        for label, prob in zip(records[i].labels or [], scored[i].steps, strict=False)
        if label is not None
    ]
    outcomes = [(i, int(outcome), scored[i]) for i in kept if (outcome := records[i].outcome) is not None]
    right = [outcome for _, outcome, _ in outcomes]
    step_of, outcome_of = [i for i, _, _ in steps], [i for i, _, _ in outcomes]
    labels, probs = [label for _, label, _ in steps], [prob for _, _, prob in steps]
    said = [scores.score for _, _, scores in outcomes]
    parts = {"step": (labels, probs, step_of), "outcome": (right, said, outcome_of)}
    found = {name: _percentiles(values) for name, values in _by_part(parts, drawn).items()}
    of, truths, given = _calibrated(records, scored, kind)
    return found | {
        "calibration_error": _percentiles(metrics.weighted_calibration_error(truths, given, drawn.weights(of))),
        "first_error_f1": _percentiles(_f1(kept, records, scored, drawn)),
    }


def curve_intervals(
    records: Sequence[Stepwise],
    scored: Sequence[StepScores],
    kind: str,
    problems_B: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Ends | None]:
    """95 % percentile intervals of `observed` at each point of the `calibration_curve` of `evaluation.compare`.

    None for a point that more than half of the draws leave without a score.
    """
    of, labels, probs = _calibrated(records, scored, kind)
    weights = _Draws(problems_B, draws, seed).weights(of)
    return [_percentiles(values_D) for values_D in metrics.weighted_calibration_curve(labels, probs, weights).T]


def _calibrated(
    records: Sequence[Stepwise], scored: Sequence[StepScores], kind: str
) -> tuple[list[int], list[int], list[float]]:
    """What calibration is measured on, by the kind of the model: index of the record, label and probability."""
    kept = [i for i, scores in enumerate(scored) if not scores.skipped]
    judged = [(i, *pair) for i in kept for pair in judgements(kind_of(kind), [(records[i], scored[i])])]
    return [i for i, _, _ in judged], [label for _, label, _ in judged], [prob for _, _, prob in judged]


def _by_part(parts: dict[str, tuple[list[int], list[float], list[int]]], drawn: _Draws) -> dict[str, Floats]:
    """AUC and accuracies of steps and of outcomes under each draw."""
    found = {}
    for name, (labels, probs, of) in parts.items():
        found[f"{name}_auc"] = metrics.weighted_auc(labels, probs, drawn.weights(of))
        plain, balanced = metrics.weighted_accuracy(labels, probs, drawn.weights(of))
        found |= {f"{name}_accuracy": plain, f"{name}_balanced_accuracy": balanced}
    return found


def _f1(kept: Sequence[int], records: Sequence[Stepwise], scored: Sequence[StepScores], drawn: _Draws) -> Floats:
    """ProcessBench's F1 under each draw, shape (D,)."""
    known = [(i, first) for i in kept if (first := first_error_of(records[i])) is not None]
    wrong_B = np.array([first >= 0 for _, first in known], dtype=bool)
    hit_B = np.array([metrics.first_error(scored[i].steps) == first for i, first in known], dtype=bool)
    found = []
    for weights_B in drawn.weights([i for i, _ in known]):
        shares: list[Any] = []
        for group_B in (wrong_B, ~wrong_B):
            total = weights_B[group_B].sum()
            shares.append(weights_B[group_B & hit_B].sum() / total if total else np.nan)
        found.append(0.0 if sum(shares) == 0 else 2 * shares[0] * shares[1] / sum(shares))
    return np.array(found)


def _percentiles(values_D: Floats) -> Ends | None:
    known = values_D[~np.isnan(values_D)]
    if 2 * len(known) <= len(values_D):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
