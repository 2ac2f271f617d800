"""Choosing one answer among K samples of a problem: majority, weighted vote, best-of-n, pass@n. Pure numpy.

Samples that give the same answer carry the same class number; the caller decides what "same" means (string or symbolic
equality). Rules, the same in every function:

- Class -1 is a missing answer. It never wins unless all answers are missing, and then the problem counts as wrong.
- Ties go to the answer whose first sample comes first.
- Scores may be negative (raw logits). A vote adds them as they are, so a negative score counts against its answer. An
  answer is chosen even if every sum is negative.
- NaN scores are an error, since no order of them means anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MISSING = -1
# Sums of votes closer than this share of all votes are equal; float64 rounding of 1024 votes stays below it.
TIE = 1e-12
# The methods that `curve` knows; `mean` is the accuracy of one sample drawn at random.
METHODS = ("mean", "majority", "weighted_vote", "best_of_n", "pass_at_n")
SCORED = ("weighted_vote", "best_of_n")  # those that need scores

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def answer_classes(answers_K: Sequence[str | None], same: Callable[[str, str], bool] | None = None) -> list[int]:
    """Class numbers (K,) of the answers to one problem, from 0 in order of appearance; None and blanks are MISSING.

    `same` decides whether two answers are equal (default: equal strings). It is asked for each answer against the first
    one of each class, oldest class first, and never about two equal strings, since symbolic equality is slow.
    """
    number: dict[str, int] = {}
    first: list[str] = []
    for answer in answers_K:
        if answer is None or is_missing(answer) or answer in number:
            continue
        known = (index for index, other in enumerate(first) if same is not None and same(other, answer))
        number[answer] = next(known, len(first))
        if number[answer] == len(first):
            first.append(answer)
    return [MISSING if answer is None or is_missing(answer) else number[answer] for answer in answers_K]


def is_missing(answer: str | None) -> bool:
    """Whether there is no answer: many tools write "" where nothing was extracted."""
    return answer is None or not answer.strip()


def majority(classes_PK: ArrayLike) -> Ints:
    """Index (P,) of the first sample of the most frequent answer; -1 where every answer is missing."""
    classes = _classes(classes_PK)
    return _vote(classes, np.ones(classes.shape))


def weighted_vote(classes_PK: ArrayLike, scores_PK: ArrayLike) -> Ints:
    """Index (P,) of the first sample of the answer with the largest sum of scores; -1 where every answer is missing."""
    classes = _classes(classes_PK)
    return _vote(classes, _scores(scores_PK, classes.shape))


def best_of_n(scores_PK: ArrayLike, classes_PK: ArrayLike | None = None) -> Ints:
    """Index (P,) of the sample with the largest score.

    With `classes_PK` given, samples without answer are skipped, and -1 is returned where all answers are missing.
    """
    scores = _scores(scores_PK)
    if classes_PK is None:
        return scores.argmax(axis=1)
    missing = _classes(classes_PK, scores.shape) == MISSING
    picked = np.where(missing, -np.inf, scores).argmax(axis=1)
    return np.where(missing.all(axis=1), MISSING, picked)


def picked_correct(picks_P: ArrayLike, correct_PK: ArrayLike) -> Bools:
    """Whether the picked sample is right, (P,); a pick of -1 is wrong."""
    picks, correct = np.asarray(picks_P), np.asarray(correct_PK, dtype=bool)
    return correct[np.arange(len(picks)), np.maximum(picks, 0)] & (picks >= 0)


def pass_at_n(correct_PK: ArrayLike, n: int) -> Floats:
    """Probability (P,) that n of the K samples, drawn without replacement, contain a right one.

    Unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), equation 1: 1 - C(K - c, n) / C(K, n), computed as the
    product of (1 - n / i) for i from K - c + 1 to K.
    """
    correct = np.asarray(correct_PK, dtype=bool)
    if correct.ndim != 2 or not 1 <= n <= correct.shape[1]:
        raise ValueError(f"n = {n} with samples of shape {correct.shape}; n must lie between 1 and K")
    samples = correct.shape[1]
    right_P = correct.sum(axis=1)
    draws_K = np.arange(1, samples + 1)
    factors_PK = np.where(draws_K > samples - right_P[:, None], 1 - n / draws_K, 1.0)
    # with fewer than n wrong samples some right one is always drawn; the product would cross zero instead
    return np.where(samples - right_P < n, 1.0, 1 - factors_PK.prod(axis=1))


def curve(
    classes_PK: ArrayLike,
    correct_PK: ArrayLike,
    scores_PK: ArrayLike | None = None,
    *,
    vote_scores_PK: ArrayLike | None = None,
    sizes: Sequence[int] | None = None,
    draws: int = 32,
    seed: int = 0,
) -> dict[str, dict[int, Floats]]:
    """Accuracy of each method at n = 1, 2, 4, ... from one bank of K samples a problem.

    `scores_PK` rank for best-of-n (the paper: min of the steps), `vote_scores_PK` weigh votes (the paper: prod;
    default: `scores_PK`). Without scores those two methods are left out. For every n, `draws` random subsets of n
    samples are drawn, the same ones for each method, so differences between methods are paired; with n = K there is
    only one.
    `pass_at_n` and `mean` need no drawing.

    Returns:
        {method: {n: accuracy_P}} with the accuracy of each problem, averaged over the draws, shape (P,).
    """
    classes = _classes(classes_PK)
    correct = np.asarray(correct_PK, dtype=bool)
    if correct.shape != classes.shape:
        raise ValueError(f"correct has shape {correct.shape}, classes have {classes.shape}; they must agree")
    scores = None if scores_PK is None else _scores(scores_PK, classes.shape)
    weights = scores if vote_scores_PK is None else _scores(vote_scores_PK, classes.shape)
    methods = ["mean", "majority", "pass_at_n"]
    methods += ["weighted_vote"] if weights is not None else []
    methods += ["best_of_n"] if scores is not None else []
    result: dict[str, dict[int, Floats]] = {name: {} for name in METHODS if name in methods}
    for n in _sizes(classes.shape[1], sizes):
        totals: dict[str, Floats] = {name: np.zeros(len(classes)) for name in result}
        count = 0
        for subset in _subsets(classes.shape, n, draws, seed):
            count += 1
            drawn, right = np.take_along_axis(classes, subset, 1), np.take_along_axis(correct, subset, 1)
            totals["majority"] += picked_correct(majority(drawn), right)
            if weights is not None:
                picks = weighted_vote(drawn, np.take_along_axis(weights, subset, 1))
                totals["weighted_vote"] += picked_correct(picks, right)
            if scores is not None:
                totals["best_of_n"] += picked_correct(best_of_n(np.take_along_axis(scores, subset, 1), drawn), right)
        for name, total_P in totals.items():
            result[name][n] = total_P / count
        result["mean"][n] = (correct & (classes != MISSING)).mean(axis=1)
        result["pass_at_n"][n] = pass_at_n(correct & (classes != MISSING), n)
    return result


def _sizes(samples: int, sizes: Sequence[int] | None) -> list[int]:
    if sizes is None:
        return [2**power for power in range(samples.bit_length())]
    wrong = [n for n in sizes if not 1 <= n <= samples]
    if wrong:
        raise ValueError(f"n = {wrong[0]} with {samples} samples a problem; n must lie between 1 and {samples}")
    return list(sizes)


def _subsets(shape: tuple[int, ...], n: int, draws: int, seed: int) -> Iterator[Ints]:
    """Sample indices (P, n) in increasing order, so that "first seen" means the order of the bank."""
    samples = shape[1]
    if n == samples:
        yield np.broadcast_to(np.arange(samples), shape)
        return
    rng = np.random.default_rng([seed, n])
    for _ in range(draws):
        yield np.sort(rng.random(shape).argpartition(n - 1, axis=1)[:, :n], axis=1)


def _vote(classes_PK: Ints, weights_PK: Floats) -> Ints:
    shape = classes_PK.shape
    # one number for each (problem, answer); np.unique keeps memory at P * K however large the class numbers are
    keys_PK = classes_PK - MISSING + np.arange(shape[0])[:, None] * (classes_PK.max(initial=0) - MISSING + 1)
    _, group = np.unique(keys_PK, return_inverse=True)
    total_PK = np.bincount(group.ravel(), weights=weights_PK.ravel())[group].reshape(shape)
    missing = classes_PK == MISSING
    total_PK = np.where(missing, -np.inf, total_PK)
    # the same votes summed in another order differ in the last bits: such sums tie, and the first sample wins
    slack_P = TIE * np.abs(weights_PK).sum(axis=1, keepdims=True)
    first_P = (total_PK >= total_PK.max(axis=1, keepdims=True) - slack_P).argmax(axis=1)
    return np.where(missing.all(axis=1), MISSING, first_P)


def _classes(classes_PK: ArrayLike, shape: tuple[int, ...] | None = None) -> Ints:
    classes = np.asarray(classes_PK)
    if classes.ndim != 2 or classes.shape[1] == 0 or (classes.size and not np.issubdtype(classes.dtype, np.integer)):
        raise ValueError(
            f"classes have shape {classes.shape} and type {classes.dtype}; expected integers (P, K), K >= 1"
        )
    if shape is not None and classes.shape != shape:
        raise ValueError(f"classes have shape {classes.shape}, scores have {shape}; they must agree")
    return classes.astype(np.int64)


def _scores(scores_PK: ArrayLike, shape: tuple[int, ...] | None = None) -> Floats:
    scores = np.asarray(scores_PK, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] == 0 or (shape is not None and scores.shape != shape):
        raise ValueError(f"scores have shape {scores.shape}; expected {shape or '(P, K) with K >= 1'}")
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"score of problem {row}, sample {column} is NaN; remove it or score that sample again")
    return scores
