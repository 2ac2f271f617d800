"""Area under the ROC curve with bootstrap draws over problems and seeds.

AUC is not a mean over problems, but a ratio of two quadratic forms in the problems' counts. With wins_PQ = number of
(right solution of problem p, wrong solution of problem q) pairs in which the right one scores higher (a tie: 1/2),

    AUC(counts) = counts @ wins @ counts / ((counts @ right) * (counts @ wrong))

so 10,000 draws cost two matrix products and no sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_e2h.stats.intervals import DRAWS


@dataclass(frozen=True)
class AucKernel:
    """Pairs won, right and wrong solutions, by problem."""

    wins: NDArray[np.float64]  # (P, P)
    right: NDArray[np.float64]  # (P,)
    wrong: NDArray[np.float64]  # (P,)

    def estimate(self) -> float | None:
        """The AUC of all solutions; None if a class is absent."""
        pairs = self.right.sum() * self.wrong.sum()
        return float(self.wins.sum() / pairs) if pairs else None


def auc_kernel(scores_N: ArrayLike, correct_N: ArrayLike, problem_N: ArrayLike, problems: int) -> AucKernel:
    """The kernel of N scored solutions; `problem_N` holds row numbers below `problems`.

    Raises:
        ValueError: shapes differ, a score is not finite, or a row number is out of range.
    """
    scores_N, correct_N = np.asarray(scores_N, dtype=np.float64), np.asarray(correct_N, dtype=bool)
    problem_N = np.asarray(problem_N, dtype=np.int64)
    if not scores_N.shape == correct_N.shape == problem_N.shape or scores_N.ndim != 1:
        raise ValueError(f"scores {scores_N.shape}, correct {correct_N.shape}, problem {problem_N.shape}: not all (N,)")
    if not np.isfinite(scores_N).all():
        raise ValueError("scores hold NaN or infinity; drop the solutions that were not scored")
    if len(problem_N) and not 0 <= problem_N.min() <= problem_N.max() < problems:
        raise ValueError(f"problem numbers lie in [{problem_N.min()}, {problem_N.max()}]; allowed: 0 to {problems - 1}")
    wins_PP = np.zeros((problems, problems))
    wrong = ~correct_N
    # All scores in order, equal ones together: what a right solution wins against is counted up along the way, by
    # problem, so that the work is N log N + N x P and not N x N.
    order = np.argsort(scores_N, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores_N[order]), 1.0)) + 1
    beaten_P, start = np.zeros(problems), 0
    for end in ends.tolist() if len(order) else ():
        group = order[start:end]
        tied_P = np.bincount(problem_N[group[wrong[group]]], minlength=problems)
        for problem in problem_N[group[correct_N[group]]]:
            wins_PP[problem] += beaten_P + 0.5 * tied_P
        beaten_P += tied_P
        start = end
    counts = [np.bincount(problem_N[side], minlength=problems).astype(np.float64) for side in (correct_N, wrong)]
    return AucKernel(wins_PP, *counts)


def bootstrap_aucs(
    kernels_CS: Sequence[Sequence[AucKernel]], draws: int = DRAWS, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    """AUCs of C conditions averaged over S seeds, in resamples of problems and seeds shared by all conditions.

    Returns:
        (draws x C, C): the draws and the estimates of the data; draws that lost a class altogether are left out. Or
        the reason why there is no AUC: a class is absent, or is absent from 1 % of the draws.
    """
    estimates = [[kernel.estimate() for kernel in row] for row in kernels_CS]
    if any(value is None for row in estimates for value in row):
        return "solutions are all right or all wrong"
    problems, seeds = len(kernels_CS[0][0].right), len(kernels_CS[0])
    rng = np.random.default_rng(seed)
    counts_DP = rng.multinomial(problems, np.full(problems, 1 / problems), size=draws).astype(np.float64)
    counts_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    aucs_DC = np.zeros((draws, len(kernels_CS)))
    for column, row in enumerate(kernels_CS):
        for index, kernel in enumerate(row):
            won_D = np.einsum("dp,dp->d", counts_DP @ kernel.wins, counts_DP)
            pairs_D = (counts_DP @ kernel.right) * (counts_DP @ kernel.wrong)
            with np.errstate(invalid="ignore", divide="ignore"):
                aucs_DC[:, column] += np.where(pairs_D > 0, won_D / pairs_D, np.nan) * counts_DS[:, index]
    usable_D = np.isfinite(aucs_DC).all(axis=1)
    if usable_D.mean() < 0.99:
        return f"one class is absent from {1 - usable_D.mean():.0%} of the resamples"
    return aucs_DC[usable_D], np.asarray(estimates, dtype=np.float64).mean(axis=1)
