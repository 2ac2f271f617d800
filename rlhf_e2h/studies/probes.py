"""Probes on hidden states: predict weak labels, find the ones that do not fit. Arrays in, arrays out.

Defaults are those of EleutherAI's weak-to-strong experiments (blog.eleuther.ai/weak-to-strong): k = 50, Euclidean
distance, logistic L2 1e-2. Neighbours come from scikit-learn's blocked search, which never holds an N x N matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class LinearProbe:
    """P(class 1 | x) = sigmoid((x - mean) / scale @ weights + bias)."""

    weights: Floats  # (D,)
    bias: float
    mean: Floats  # (D,)
    scale: Floats  # (D,)

    def predict(self, x_ND: Floats) -> Floats:
        from scipy.special import expit

        return expit((x_ND - self.mean) / self.scale @ self.weights + self.bias)


def fit_logistic(
    x_ND: Floats, labels_N: Floats, l2: float = 1e-2, standardise: bool = False, weights_N: Floats | None = None
) -> LinearProbe:
    """Minimise mean BCE(soft labels) + l2 * |w|^2 by L-BFGS from zero; the bias is not penalised.

    Args:
        standardise: features to mean 0 and deviation 1 on these data first (Hase et al. 2024).

    Raises:
        ValueError: labels outside [0, 1], or all of one class: there is nothing to tell apart.
    """
    from sklearn.linear_model import LogisticRegression

    labels_N = _checked(x_ND, labels_N)
    if labels_N.max() == 0 or labels_N.min() == 1:
        raise ValueError(f"all {len(labels_N)} labels are {labels_N[0]:g}; a probe needs two classes")
    dims = x_ND.shape[1]
    mean_D, scale_D = np.zeros(dims), np.ones(dims)
    if standardise:
        mean_D, scale_D = x_ND.mean(0), x_ND.std(0)
        scale_D = np.where(scale_D > 0, scale_D, 1.0)
    z_ND = (x_ND - mean_D) / scale_D
    counts_N = np.ones(len(labels_N)) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    # a soft label y is a point of class 1 with weight y and one of class 0 with weight 1 - y
    model = LogisticRegression(C=1 / (2 * l2 * counts_N.sum()), max_iter=10_000, tol=1e-8)
    model.fit(
        np.concatenate([z_ND, z_ND]),
        np.repeat([1, 0], len(z_ND)),
        np.concatenate([counts_N * labels_N, counts_N * (1 - labels_N)]),
    )
    return LinearProbe(model.coef_[0], float(model.intercept_[0]), mean_D, scale_D)


def neighbours(x_ND: Floats, k: int, queries_MD: Floats | None = None) -> NDArray[np.int64]:
    """Indices (M, k) of the k nearest points of `x_ND`, nearest first; a point of `x_ND` itself is not its own.

    Raises:
        ValueError: fewer points than k (or k + 1 without queries).
    """
    from sklearn.neighbors import NearestNeighbors

    own = queries_MD is None
    if k < 1 or len(x_ND) < k + own:
        raise ValueError(f"k = {k} neighbours of {len(x_ND)} points; give at least {k + own} points or a smaller k")
    # a tree gains nothing in hundreds of dimensions
    search = NearestNeighbors(n_neighbors=k + own, algorithm="brute").fit(x_ND)
    found_MK = search.kneighbors(x_ND if own else queries_MD, return_distance=False)
    if not own:
        return found_MK
    is_self_MK = found_MK == np.arange(len(x_ND))[:, None]
    # among more than k duplicates a point may be missing from its own list; then the last one goes
    is_self_MK[~is_self_MK.any(1), -1] = True
    return found_MK[~is_self_MK].reshape(len(x_ND), k)


def knn(
    x_ND: Floats, labels_N: Floats, queries_MD: Floats | None = None, k: int = 50, count_self: bool = True
) -> Floats:
    """Mean label (M,) of the k nearest of `x_ND`.

    Without queries the points themselves are asked about; upstream each then counts as its own neighbour
    (`count_self`), which makes every label agree with itself a little.
    """
    labels_N = _checked(x_ND, labels_N)
    if queries_MD is None and not count_self:
        return labels_N[neighbours(x_ND, k)].mean(1)
    return labels_N[neighbours(x_ND, k, x_ND if queries_MD is None else queries_MD)].mean(1)


@dataclass(frozen=True)
class TopoFiltered:
    """Which points stay, and how many each of the two steps removed."""

    kept: Bools  # (N,)
    by_component: int
    by_neighbours: int


def topofilter(
    x_ND: Floats, labels_N: Floats, share: float = 0.1, k_component: int = 50, k_neighbours: int = 50
) -> TopoFiltered:
    """Remove labels that the geometry of the data contradicts (Wu et al. 2020, arXiv 2012.04835, as in EleutherAI/w2s).

    In the directed kNN graph each class (label > 1/2 or not) keeps its largest strongly connected component. Among the
    kept points those with the largest |y - mean y of their nearest kept| follow, until round(share * N) are gone in
    total; none if the first step has removed as many.
    """
    labels_N = _checked(x_ND, labels_N)
    if not 0 <= share < 1:
        raise ValueError(f"share = {share}; allowed is 0 to below 1, usually 0.1")
    n = len(labels_N)
    # three times as many as needed: most points then find their nearest *kept* ones here, without a second search
    found_NK = neighbours(x_ND, max(k_component, min(3 * k_neighbours, n - 1)))
    kept_N = _largest_components(found_NK[:, :k_component], labels_N > 0.5)
    by_component = int(n - kept_N.sum())
    wanted = max(round(share * n) - by_component, 0)
    if wanted:
        distance_M = np.abs(labels_N[kept_N] - _mean_of_kept(x_ND, labels_N, found_NK, kept_N, k_neighbours))
        furthest = np.argsort(-distance_M, kind="stable")[:wanted]
        kept_N[np.flatnonzero(kept_N)[furthest]] = False
    return TopoFiltered(kept_N, by_component, wanted)


def disagreeing(labels_N: Floats, probe_N: Floats, share: float = 0.1) -> Bools:
    """Mask of the int(share * N) points with the largest |probe - label|; of equal ones the first."""
    gone_N = np.zeros(len(labels_N), dtype=bool)
    gone_N[np.argsort(-np.abs(probe_N - labels_N), kind="stable")[: int(share * len(labels_N))]] = True
    return gone_N


def _largest_components(found_NK: NDArray[np.int64], positive_N: Bools) -> Bools:
    n, k = found_NK.shape
    start = np.repeat(np.arange(n), k)
    end = found_NK.ravel()
    kept_N = np.zeros(n, dtype=bool)
    for members_N in (positive_N, ~positive_N):
        inside = members_N[start] & members_N[end]
        if not members_N.any():
            continue
        graph = csr_matrix((np.ones(inside.sum(), dtype=np.int8), (start[inside], end[inside])), shape=(n, n))
        component_N = connected_components(graph, connection="strong")[1]
        kept_N |= members_N & (component_N == np.bincount(component_N[members_N]).argmax())
    return kept_N


def _mean_of_kept(x_ND: Floats, labels_N: Floats, found_NK: NDArray[np.int64], kept_N: Bools, k: int) -> Floats:
    """Mean label (M,) of the k nearest kept points of each kept point."""
    found_MK = found_NK[kept_N]
    good_MK = kept_N[found_MK]
    first_MK = good_MK & (good_MK.cumsum(1) <= k)
    mean_M: Floats = np.where(first_MK, labels_N[found_MK], 0.0).sum(1) / k
    short_M = first_MK.sum(1) < k
    if short_M.any():
        x_MD, y_M = x_ND[kept_N], labels_N[kept_N]
        if len(x_MD) <= k:
            raise ValueError(f"{len(x_MD)} points are left after the first step; k_neighbours {k} needs more of them")
        nearest = neighbours(x_MD, k + 1, x_MD[short_M])
        other = nearest != np.flatnonzero(short_M)[:, None]
        other[other.all(1), -1] = False
        mean_M[short_M] = y_M[nearest[other].reshape(-1, k)].mean(1)
    return mean_M


def _checked(x_ND: Floats, labels_N: Floats) -> Floats:
    labels_N = np.asarray(labels_N, dtype=np.float64)
    if x_ND.ndim != 2 or labels_N.shape != (len(x_ND),) or not len(x_ND):
        raise ValueError(f"features have shape {x_ND.shape}, labels {labels_N.shape}; expected (N, D) and (N,), N >= 1")
    if not np.isfinite(x_ND).all():
        raise ValueError("features hold NaN or infinity; the model that made them is broken")
    if not (np.isfinite(labels_N).all() and labels_N.min() >= 0 and labels_N.max() <= 1):
        raise ValueError(f"labels range over [{labels_N.min():g}, {labels_N.max():g}]; probabilities are in [0, 1]")
    return labels_N
