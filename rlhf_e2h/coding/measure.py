"""Best-of-n and pass@n over all subsets of a bank at once. Pure numpy."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def expected_best_of_n(values_PK: ArrayLike, scores_PK: ArrayLike, n: int) -> Floats:
    """Expected value (P,) of the best-scored among n of the K samples, over all subsets of size n.

    The sample with rank r from the bottom (0 the lowest) is the best of C(r, n - 1) of the C(K, n) subsets; equal
    scores go to the earlier sample. `values` may be 0 and 1 (strict accuracy) or shares of tests (average accuracy).

    Raises:
        ValueError: shapes that differ, or n outside 1 to K.
    """
    values, scores = np.asarray(values_PK, dtype=float), np.asarray(scores_PK, dtype=float)
    if values.ndim != 2 or values.shape != scores.shape:
        raise ValueError(f"values have shape {values.shape} and scores {scores.shape}; both must be (P, K)")
    count = values.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"n is {n}; with {count} samples a problem it must lie between 1 and {count}")
    descending = np.argsort(-scores, axis=1, kind="stable")  # the earlier of two equal ones first
    weights_K = np.array([comb(count - 1 - place, n - 1) / comb(count, n) for place in range(count)])
    return np.take_along_axis(values, descending, axis=1) @ weights_K
