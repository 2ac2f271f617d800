"""How hard is a problem for a learner? Two measures from a probe that is refitted on more and more problems.

`learning_curve_mdl` is what Hase et al. 2024 (arXiv 2401.06751) call MDL: 1 minus the mean probability of the right
label over the learning curve. It is not a codelength. `prequential_bits` is one: the online code of Blier and Ollivier
2018 (arXiv 1802.07044), in which each label is paid for with the probe fitted to the problems before it.

A problem has several solutions, each right or wrong; the probe reads their features. Arrays are over N solutions with
`problem_N` as row numbers of P problems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.studies.probes import fit_logistic

SIZES = (5, 20, 80, 340, 900)  # problems, Hase et al.
Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def learning_curve_mdl(
    x_ND: Floats, labels_N: Floats, problem_N: Ints, sizes: Sequence[int] = SIZES, repeats: int = 3, seed: int = 0
) -> Floats:
    """1 - mean probability of the true label (P,) over sizes and repeats; 0 is easy, 1/2 is chance.

    Problems are split in two halves; each half is scored by probes fitted to the other, so that no problem is scored by
    a probe that has seen it. Sizes beyond a half are left out.

    Raises:
        ValueError: no size fits.
    """
    count = _problems(problem_N)
    half_P = np.random.default_rng([seed, 0]).permutation(count) < count // 2
    usable = [n for n in sizes if n <= min(half_P.sum(), (~half_P).sum())]
    if not usable:
        raise ValueError(f"{count} problems in two halves; none of the sizes {list(sizes)} fits, give smaller ones")
    total_N = np.zeros(len(labels_N))
    for side in (True, False):
        pool = np.flatnonzero(half_P != side)
        scored_N = half_P[problem_N] == side
        for n in usable:
            for repeat in range(repeats):
                chosen = np.random.default_rng([seed, 1, n, repeat]).permutation(pool)[:n]
                inside_N = np.isin(problem_N, chosen)
                total_N[scored_N] += _gold(x_ND[inside_N], labels_N[inside_N], x_ND[scored_N], labels_N[scored_N])
    mean_N = total_N / (len(usable) * repeats)
    return 1 - np.bincount(problem_N, mean_N, count) / np.bincount(problem_N, minlength=count)


def prequential_bits(
    x_ND: Floats, labels_N: Floats, problem_N: Ints, sizes: Sequence[int] = SIZES, repeats: int = 3, seed: int = 0
) -> Floats:
    """Bits (P,) to send a problem's labels, averaged over random orders of the problems.

    The first block is sent at one bit a label; block j, up to size n_j, with a probe fitted to all problems before it.
    """
    count = _problems(problem_N)
    bits_P = np.zeros(count)
    for repeat in range(repeats):
        order = np.random.default_rng([seed, 2, repeat]).permutation(count)
        position_N = np.argsort(order)[problem_N]  # place of each solution's problem in the order
        edges = [n for n in sorted(sizes) if n < count] + [count]
        start = 0
        for end in edges:
            block_N = (position_N >= start) & (position_N < end)
            before_N = position_N < start
            gold_M = np.full(block_N.sum(), 0.5)
            if start:
                gold_M = _gold(x_ND[before_N], labels_N[before_N], x_ND[block_N], labels_N[block_N])
            bits_P += np.bincount(problem_N[block_N], -np.log2(gold_M), count)
            start = end
    return bits_P / repeats


def _gold(x_ND: Floats, labels_N: Floats, queries_MD: Floats, truth_M: Floats) -> Floats:
    """P(true label) of each query; with one class so far, Laplace's rule of succession in place of a probe."""
    if labels_N.min() == labels_N.max():
        right_M = np.full(len(truth_M), (labels_N.sum() + 1) / (len(labels_N) + 2))
    else:
        right_M = fit_logistic(x_ND, labels_N, standardise=True).predict(queries_MD)
    return np.clip(np.where(truth_M > 0.5, right_M, 1 - right_M), 1e-6, 1.0)


def _problems(problem_N: Ints) -> int:
    counts_P = np.bincount(problem_N)
    if len(counts_P) < 2 or (counts_P == 0).any():
        raise ValueError(
            f"{len(counts_P)} problems, {int((counts_P == 0).sum())} without solutions; every one needs some"
        )
    return len(counts_P)
