"""Confidence intervals: Wilson for one proportion, paired grid bootstrap for everything that has problems and seeds.

The bootstrap resamples whole problems, jointly for all conditions (the block is a problem with all its seeds, samples
and conditions), and, when there are several seeds, whole seeds as well, again jointly for all conditions. This is the
"grid" bootstrap of Hase et al. 2024 (arXiv 2401.06751) with one difference: they redraw seeds for each condition, we
redraw them together, because conditions of one seed share their data, SFT model and sample bank, and the columns of a
difference are independent of each other whether or not that is so.

What to expect of it (simulated as in tests/stats/test_coverage.py, nominal 95 %, one accuracy / paired difference):
one seed 95 / 96 %; five seeds that differ by .3 in log-odds 93-97 %; by .2, 96 / 98 %; seeds that do not differ at all
99 / 99 %, because problem-by-seed noise is then counted about three times (Owen 2007, "The pigeonhole bootstrap"): with
several seeds it errs on the careful side. Three seeds that differ by .3: 95 / 93 %. With one seed only problems are
resampled, and the interval says nothing about what another seed would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

DRAWS = 10_000
LEVEL = 0.95
CHUNK_CELLS = 4_000_000  # resampling counts held at a time (32 MB), so that memory does not grow with the draws


@dataclass(frozen=True)
class Interval:
    """An estimate with a 95 % interval (another level where asked for) and the number of problems behind it."""

    estimate: float
    low: float
    high: float
    n: int

    def excludes(self, value: float = 0.0) -> bool:
        """True if `value` lies outside the interval; the bounds belong to it."""
        return value < self.low or value > self.high


def wilson(successes: float, n: int, level: float = LEVEL) -> Interval:
    """Wilson score interval of `successes / n` (Wilson 1927); has width at 0 and at 1, unlike a bootstrap.

    `successes` may be fractional (a mean over samples times n); the interval is then conservative.

    Raises:
        ValueError: n < 1, successes outside [0, n], or level outside (0, 1).
    """
    if n < 1:
        raise ValueError(f"n = {n}: a proportion needs at least one problem; leave this row out")
    if not 0 <= successes <= n:
        raise ValueError(f"successes = {successes} of n = {n}; allowed are 0 to n")
    z = float(norm.ppf(0.5 + _checked_level(level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # at 0 and n the bound is exact, but floating point may miss it by 1e-17
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high, n)


def bootstrap_means(values_CPS: ArrayLike, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Means of C conditions in `draws` resamples of problems and seeds, the same resample for all conditions.

    Args:
        values_CPS: conditions x problems x seeds, finite.
        draws: resamples; the counts are drawn in chunks, so memory is about CHUNK_CELLS * 8 bytes.
        seed: of the generator; the same input and seed give the same output.

    Returns:
        means_DC, draws x conditions. A difference of two columns is a paired resample of the difference.
    """
    values_CPS = np.asarray(values_CPS, dtype=np.float64)
    if values_CPS.ndim != 3:
        raise ValueError(f"values have shape {values_CPS.shape}; expected conditions x problems x seeds")
    conditions, problems, seeds = values_CPS.shape
    if not (conditions and problems and seeds):
        raise ValueError(f"values have shape {values_CPS.shape}; every axis needs at least one entry")
    if draws < 1:
        raise ValueError(f"draws = {draws}; at least 1, usually {DRAWS}")
    if not np.isfinite(values_CPS).all():
        raise ValueError("values hold NaN or infinity; drop the problems that a condition did not answer")
    rng = np.random.default_rng(seed)
    values_PCS = np.ascontiguousarray(values_CPS.transpose(1, 0, 2)).reshape(problems, conditions * seeds)
    chunk = max(1, min(draws, CHUNK_CELLS // problems))
    parts = []
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        counts_DP = rng.multinomial(problems, np.full(problems, 1 / problems), size=size).astype(np.float64)
        sums_DCS = (counts_DP @ values_PCS).reshape(size, conditions, seeds)
        if seeds == 1:
            parts.append(sums_DCS[:, :, 0] / problems)
            continue
        counts_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
        parts.append(np.einsum("dcs,ds->dc", sums_DCS, counts_DS) / (problems * seeds))
    return np.concatenate(parts)


def interval_from_draws(draws_D: ArrayLike, estimate: float, n: int, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap draws around an estimate made from the data themselves."""
    tail = (1 - _checked_level(level)) / 2
    low, high = np.quantile(np.asarray(draws_D, dtype=np.float64), [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high), n)


def bootstrap_mean(correct_PS: ArrayLike, draws: int = DRAWS, seed: int = 0, level: float = LEVEL) -> Interval:
    """Accuracy with its bootstrap interval.

    Where every entry is equal a bootstrap has no width; if the value is 0 or 1 the Wilson interval of the P problems
    stands in.

    Args:
        correct_PS: problems x seeds in [0, 1] (a mean over samples may lie between); a vector is one seed.
    """
    correct_PS = checked_matrix(correct_PS, "correct")
    problems = correct_PS.shape[0]
    mean = float(correct_PS.mean())
    if mean in (0.0, 1.0):
        return wilson(mean * problems, problems, level)
    means_D = bootstrap_means(correct_PS[None], draws, seed)[:, 0]
    return interval_from_draws(means_D, mean, problems, level)


def paired_difference(
    treatment_PS: ArrayLike, baseline_PS: ArrayLike, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Mean of treatment minus baseline on the same problems and seeds, with its paired bootstrap interval.

    Args:
        treatment_PS, baseline_PS: problems x seeds in [0, 1], the same problem in the same row, the same seed in the
            same column; vectors are one seed.

    Raises:
        ValueError: shapes differ (there is no broadcasting), values outside [0, 1], NaN.
    """
    treatment_PS = checked_matrix(treatment_PS, "treatment")
    baseline_PS = checked_matrix(baseline_PS, "baseline")
    require_same_shape(treatment=treatment_PS, baseline=baseline_PS)
    difference_PS = treatment_PS - baseline_PS
    means_D = bootstrap_means(difference_PS[None], draws, seed)[:, 0]
    return interval_from_draws(means_D, float(difference_PS.mean()), difference_PS.shape[0], level)


def checked_matrix(correct: ArrayLike, name: str) -> NDArray[np.float64]:
    """`correct` as problems x seeds float64 in [0, 1]; a vector becomes one column; ValueError names what is wrong."""
    matrix = np.asarray(correct, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {matrix.shape}; expected problems x seeds with at least one of each")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds NaN or infinity; drop the problems that a condition did not answer")
    if matrix.min() < 0 or matrix.max() > 1:
        raise ValueError(f"{name} ranges over [{matrix.min():g}, {matrix.max():g}]; accuracies lie in [0, 1]")
    return matrix


def require_same_shape(**matrices: NDArray[np.float64]) -> None:
    """ValueError with every shape unless all are equal; pairing is by row and column, so nothing is broadcast."""
    if len({matrix.shape for matrix in matrices.values()}) > 1:
        shapes = ", ".join(f"{name} {matrix.shape}" for name, matrix in matrices.items())
        raise ValueError(f"paired matrices differ in shape: {shapes}; use the same problems and seeds for each")


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}; allowed is a number between 0 and 1, usually {LEVEL}")
    return level
