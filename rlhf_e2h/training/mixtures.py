"""How much of each skill to train on: fixed mixtures, DoReMi, Skill-It, and a learned skill graph.

Skills are K groups of examples (levels, subjects, domains); weights are shares that sum to 1.
DoReMi: Xie et al. 2023, arXiv 2305.10429, Algorithm 1. Skill-It: Chen et al. 2023, arXiv 2307.14430, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW = 3  # losses of N evaluations are summed by Skill-It
OFF_DIAGONAL = 0.5  # what an edge of a given 0/1 graph counts, against 1 for the skill itself
Weights = NDArray[np.float64]


def normalised(weights: Mapping[str, float], skills: Sequence[str]) -> Weights:
    """Weights in the order of `skills`, divided by their sum.

    Raises:
        ValueError: a skill without weight, a weight for no skill, a negative or infinite one, or a sum of 0.
    """
    unknown = [name for name in weights if name not in skills]
    missing = [name for name in skills if name not in weights]
    if unknown or missing:
        what = f"{unknown[0]!r} is not a skill here" if unknown else f"skill {missing[0]!r} has no weight"
        raise ValueError(f"{what}; give a weight for each of {', '.join(skills)}")
    values = np.array([float(weights[name]) for name in skills])
    if not np.isfinite(values).all() or (values < 0).any() or not values.sum():
        raise ValueError(f"weights {dict(weights)} are not shares; give numbers >= 0, not all 0")
    return values / values.sum()


def uniform(skills: int) -> Weights:
    return np.full(skills, 1 / skills)


def by_size(counts_K: ArrayLike) -> Weights:
    counts_K = np.asarray(counts_K, dtype=np.float64)
    return counts_K / counts_K.sum()


def doremi_step(weights_K: ArrayLike, excess_K: ArrayLike, eta: float = 1.0, smoothing: float = 1e-4) -> Weights:
    """One update: alpha <- softmax(log alpha + eta * max(excess, 0)), then (1 - c) alpha + c / K.

    `excess_K` is the mean over a skill's tokens of proxy loss minus reference loss, clipped at 0. The mixture that
    DoReMi returns is the average of alpha over all steps, not the last one.
    """
    weights_K, excess_K = np.asarray(weights_K, dtype=np.float64), np.asarray(excess_K, dtype=np.float64)
    _same_length(weights_K, excess_K)
    logits_K = np.log(np.maximum(weights_K, 1e-300)) + eta * np.maximum(excess_K, 0)
    raised_K = np.exp(logits_K - logits_K.max())
    return (1 - smoothing) * raised_K / raised_K.sum() + smoothing / len(raised_K)


def skill_it_weights(
    initial_K: ArrayLike,
    graph_KK: ArrayLike,
    losses_RK: ArrayLike,
    eta: float = 0.5,
    window: int = WINDOW,
    normalise: bool = False,
) -> Weights:
    """w_i proportional to w0_i * exp(eta * sum_j A_ij * L_j), from the *initial* weights at every update.

    Args:
        graph_KK: A, with A_ij how much training on i helps j; see `given_graph` for a 0/1 graph.
        losses_RK: validation losses of the rounds so far; L_j is the sum over the last `window`. Without a round,
            every L_j is 1.
        normalise: divide losses by those of the first round, so that skills of higher entropy do not win by it.
    """
    initial_K, graph_KK = np.asarray(initial_K, dtype=np.float64), np.asarray(graph_KK, dtype=np.float64)
    history_RK: Weights = np.asarray(losses_RK, dtype=np.float64).reshape(-1, len(initial_K))
    if graph_KK.shape != (len(initial_K), len(initial_K)):
        raise ValueError(f"the skill graph is {graph_KK.shape}, there are {len(initial_K)} skills; give K rows of K")
    if not np.isfinite(history_RK).all():
        raise ValueError("a validation loss is not a number; a skill without validation items cannot be weighted")
    if normalise and len(history_RK):
        history_RK = history_RK / np.maximum(history_RK[0], 1e-12)
    loss_K = history_RK[-window:].sum(axis=0) if len(history_RK) else np.ones(len(initial_K))
    gain_K = eta * graph_KK @ loss_K
    raised_K = initial_K * np.exp(gain_K - gain_K.max())
    return raised_K / raised_K.sum()


def given_graph(edges_KK: ArrayLike, strength: float = OFF_DIAGONAL) -> NDArray[np.float64]:
    """The matrix A of a 0/1 skill graph: ones on the diagonal, `strength` on edges i -> j."""
    edges_KK = np.asarray(edges_KK, dtype=np.float64)
    if edges_KK.ndim != 2 or edges_KK.shape[0] != edges_KK.shape[1]:
        raise ValueError(f"the skill graph has shape {edges_KK.shape}; give a square matrix of 0 and 1")
    matrix = np.where(edges_KK > 0, strength, 0.0)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def learned_graph(
    alone_KS: ArrayLike, together_KKS: ArrayLike, least: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges and matrix A from short runs: i -> j where training on {i, j} leaves a lower loss on j than {j} alone.

    Both runs have the same number of steps, so {i, j} sees half as many examples of j. An edge must hold in the mean
    by more than `least` (a share of the loss alone) and, with several seeds, in every seed.

    Args:
        alone_KS: loss on skill j after training on j only, skills x seeds.
        together_KKS: loss on skill j after training on {i, j}, [i, j, seed]; the diagonal is not read.

    Returns:
        edges_KK (0 or 1, with a diagonal of ones) and gains_KK, the mean relative fall of the loss.
    """
    alone_KS, together_KKS = np.asarray(alone_KS, dtype=np.float64), np.asarray(together_KKS, dtype=np.float64)
    if alone_KS.ndim != 2 or together_KKS.shape != (len(alone_KS), *alone_KS.shape):
        raise ValueError(f"losses alone {alone_KS.shape} and together {together_KKS.shape}; give (K, S) and (K, K, S)")
    gains_KKS = (alone_KS[None] - together_KKS) / np.maximum(alone_KS[None], 1e-12)
    skills = np.arange(len(alone_KS))
    gains_KKS[skills, skills] = 0.0
    if not np.isfinite(gains_KKS).all():
        raise ValueError("a loss is not a number; a skill without validation items cannot be in the graph")
    gains_KK = gains_KKS.mean(axis=2)
    edges_KK = ((gains_KK > least) & (gains_KKS > 0).all(axis=2)).astype(np.float64)
    np.fill_diagonal(edges_KK, 1.0)
    return edges_KK, gains_KK


def _same_length(*vectors: NDArray[np.float64]) -> None:
    if len({vector.shape for vector in vectors}) > 1 or vectors[0].ndim != 1:
        raise ValueError(f"shapes {[vector.shape for vector in vectors]} differ; give one number a skill")
