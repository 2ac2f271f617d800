"""Metrics of a reward model on labelled records; what early stopping watches and model cards print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from reward_models import metrics
from reward_models.kinds import Kind, kind_of
from reward_models.records import Stepwise, first_wrong
from reward_models.score import Scorer, StepScores


def evaluate_records(
    scorer: Scorer, records: Sequence[Stepwise], on_scored: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Score records and compare with their labels; None where a figure has no data of both classes.

    `on_scored` gets the number of records done by each batch, and 0 before the first.

    Keys: `step_auc`, `step_accuracy`, `step_balanced_accuracy`, `step_roc`, `calibration_error`, `calibration_curve`
    over all labelled steps; `outcome_auc`, `outcome_accuracy`, `outcome_balanced_accuracy`, `outcome_roc` of the
    contract's aggregation against outcomes; `first_error`, the ProcessBench accuracies and F1; `loss`, the mean
    cross-entropy at the scoring positions of labelled steps (of outcomes for an ORM); `score_spread`, the standard
    deviation of the probabilities there; `records`, `skipped`; `score_histogram`,
    ten bins of probabilities (last step for an ORM, all steps otherwise) for each `level` among the records' extra
    fields.
    """
    items = ((record.problem, record.steps) for record in records)
    if on_scored:
        on_scored(0)
    scored = list(scorer.score_stream(items, on_scored=on_scored))
    return compare(records, scored, scorer.contract.kind)


def compare(records: Sequence[Stepwise], scored: Sequence[StepScores], kind: str) -> dict[str, Any]:
    """The metrics of `evaluate_records` for records that have been scored already, by a model of `kind`."""
    pairs = [(record, scores) for record, scores in zip(records, scored, strict=True) if not scores.skipped]
    steps = [
        (label, prob)
        for record, scores in pairs
        for label, prob in zip(record.labels or [], scores.steps, strict=False)
        if label is not None
    ]
    outcomes = [(record.outcome, scores) for record, scores in pairs if record.outcome is not None]
    step_labels, step_probs = [label for label, _ in steps], [prob for _, prob in steps]
    right, said = [outcome for outcome, _ in outcomes], [scores.score for _, scores in outcomes]
    judged = judgements(kind_of(kind), pairs)
    labels, probs = [label for label, _ in judged], [prob for _, prob in judged]
    return {
        "records": len(records),
        "skipped": len(records) - len(pairs),
        "loss": _cross_entropy(labels, probs),
        "step_auc": metrics.auc(step_labels, step_probs),
        "step_accuracy": metrics.accuracy(step_labels, step_probs),
        "step_balanced_accuracy": metrics.balanced_accuracy(step_labels, step_probs),
        "step_roc": metrics.roc_curve(step_labels, step_probs),
        "calibration_error": metrics.calibration_error(labels, probs),
        "calibration_curve": metrics.calibration_curve(labels, probs),
        "outcome_auc": metrics.auc(right, said),
        "outcome_accuracy": metrics.accuracy(right, said),
        "outcome_balanced_accuracy": metrics.balanced_accuracy(right, said),
        "outcome_roc": metrics.roc_curve(right, said),
        "first_error": _first_error(pairs),
        "score_histogram": _histograms(pairs, kind_of(kind)),
        "score_spread": float(np.std(probs)) if probs else None,
    }


def judgements(kind: Kind, pairs: Iterable[tuple[Stepwise, StepScores]]) -> list[tuple[int, float]]:
    """(label, probability) of everything that a model of this kind judges and a label is known of."""
    return [
        (label, prob)
        for record, scores in pairs
        for label, prob in zip(kind.truths(record), kind.judgements(scores.steps), strict=False)
        if label is not None
    ]


def first_error_of(record: Stepwise) -> int | None:
    """Where the first error is, -1 for none: as the record says, else by its labels; None if neither does."""
    given = record.extra.get("first_error")
    return first_wrong(record.labels or [None]) if given is None else given


def _cross_entropy(labels: Sequence[int], probs: Sequence[float]) -> float | None:
    if not labels:
        return None
    right_B = np.where(np.array(labels) == 1, probs, 1 - np.array(probs))
    return float(-np.log(np.maximum(right_B, 1e-12)).mean())


def _first_error(pairs: Sequence[tuple[Stepwise, StepScores]]) -> dict[str, float | None]:
    """Over the records of which it is known where the first error is."""
    known = [(first, scores.steps) for record, scores in pairs if (first := first_error_of(record)) is not None]
    return metrics.first_error_f1([first for first, _ in known], [steps for _, steps in known])


def _histograms(pairs: Sequence[tuple[Stepwise, StepScores]], kind: Kind) -> dict[str, list[int]]:
    by_level: dict[str, list[float]] = {}
    for record, scores in pairs:
        level = str(record.extra.get("level", "all"))
        by_level.setdefault(level, []).extend(kind.judgements(scores.steps))
    return {level: metrics.histogram(by_level[level]) for level in sorted(by_level)}
