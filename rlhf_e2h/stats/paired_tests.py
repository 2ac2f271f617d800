"""Tests of one method against another on the same data sets or seeds, a difference each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ttest_rel, wilcoxon


@dataclass(frozen=True)
class PairedTests:
    """Mean difference over n pairs and two p-values; a p-value is None where `reason` says why."""

    n: int
    difference: float
    t_p: float | None
    wilcoxon_p: float | None
    reason: str | None


def paired_tests(
    treatment_U: ArrayLike, baseline_U: ArrayLike, alternative: Literal["two-sided", "greater", "less"] = "two-sided"
) -> PairedTests:
    """Paired t-test and Wilcoxon signed-rank test over U units (data sets, seeds, or both).

    "greater" asks whether the treatment is larger, as in EleutherAI's comparison of losses over 21 data sets. With
    three seeds a two-sided Wilcoxon p cannot fall below 1/4: read it together with the difference.

    Raises:
        ValueError: shapes differ, nothing to compare, or a value that is not finite.
    """
    treatment_U, baseline_U = np.asarray(treatment_U, dtype=np.float64), np.asarray(baseline_U, dtype=np.float64)
    if treatment_U.ndim != 1 or treatment_U.shape != baseline_U.shape or not len(treatment_U):
        raise ValueError(f"treatment has shape {treatment_U.shape}, baseline {baseline_U.shape}; both must be (U,)")
    difference_U = treatment_U - baseline_U
    if not np.isfinite(difference_U).all():
        raise ValueError("values hold NaN or infinity; leave out the units that have no value")
    n, mean = len(difference_U), float(difference_U.mean())
    if n < 2:
        return PairedTests(n, mean, None, None, "one pair; a test needs at least two")
    if not difference_U.any():
        return PairedTests(n, mean, None, None, "all differences are 0")
    signed = float(wilcoxon(treatment_U, baseline_U, alternative=alternative).pvalue)
    if np.ptp(difference_U) < 1e-12:
        return PairedTests(n, mean, None, signed, "all differences are equal, so t has no spread to compare with")
    t = float(ttest_rel(treatment_U, baseline_U, alternative=alternative).pvalue)
    return PairedTests(n, mean, t, signed, None)
