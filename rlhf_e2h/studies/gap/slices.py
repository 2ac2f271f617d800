"""Which problems an arm of the supervision-gap study learns from: equal n, easy to hard, clean or noisy.

Hase et al. 2024 (arXiv 2401.06751): a problem is easy if its measure is at most `easy_max`, hard if it is at least
`hard_min`, else medium; without limits the .30 and .70 quantiles. All arms learn from the same number of problems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

GROUPS = ("easy", "medium", "hard")
QUANTILES = (0.3, 0.7)


def groups_of(values_P: ArrayLike, easy_max: float | None = None, hard_min: float | None = None) -> list[str]:
    """easy, medium or hard for each problem; limits that are not given are the .30 and .70 quantiles.

    Raises:
        ValueError: a value is missing, or the limits leave no room between them.
    """
    values_P = np.asarray(values_P, dtype=np.float64)
    if not len(values_P) or not np.isfinite(values_P).all():
        raise ValueError(
            f"{len(values_P)} values, {int((~np.isfinite(values_P)).sum())} of them missing; give them all"
        )
    low, high = np.quantile(values_P, QUANTILES)
    low, high = low if easy_max is None else easy_max, high if hard_min is None else hard_min
    if low >= high:
        raise ValueError(
            f"easy up to {low:g} and hard from {high:g} overlap; this measure has too few values for groups: set "
            "easy_max and hard_min"
        )
    return ["easy" if value <= low else "hard" if value >= high else "medium" for value in values_P]


def members(groups: Sequence[str], levels: Sequence[int], arm: str) -> NDArray[np.int64]:
    """Indices of the problems that an arm may learn from: a group, "all", or a level such as "level 4"."""
    if arm == "none":
        return np.empty(0, dtype=np.int64)
    if arm == "all":
        return np.arange(len(groups))
    if arm in GROUPS:
        return np.flatnonzero([group == arm for group in groups])
    level = arm.removeprefix("level ")
    if not level.isdigit():
        raise ValueError(f"arm {arm!r} is not known; use none, {', '.join(GROUPS)}, all, or 'level 1' to 'level 5'")
    return np.flatnonzero([value == int(level) for value in levels])


def draw(candidates: NDArray[np.int64], n: int, arm: str, seed: int) -> NDArray[np.int64]:
    """n of the candidates at random; a smaller n with the same seed gives the first of them.

    Raises:
        ValueError: there are fewer than n: arms are only comparable at equal n.
    """
    if n > len(candidates):
        raise ValueError(f"arm {arm!r} has {len(candidates)} problems, n is {n}; lower n or prepare more problems")
    rng = np.random.default_rng([seed, *arm.encode()])
    return candidates[rng.permutation(len(candidates))[:n]]


def redrawn(labels_N: ArrayLike, choices: Sequence[object], p: float, seed: int) -> list[object]:
    """Labels of which each is redrawn with probability p, uniformly over the choices, its own value included.

    So a share p (k - 1) / k changes (k choices): p = .3 and k = 4 gives .225.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"noise probability {p} is outside [0, 1]")
    if len(choices) < 2:
        raise ValueError(f"{len(choices)} possible labels; noise needs at least two")
    rng = np.random.default_rng([seed, 1009])
    labels = list(np.asarray(labels_N, dtype=object))
    hit_N, pick_N = rng.random(len(labels)) < p, rng.integers(len(choices), size=len(labels))
    return [choices[k] if hit else label for label, hit, k in zip(labels, hit_N, pick_N, strict=True)]


def noise_of(arm: str, p: float) -> float:
    """Hard labels are twice as noisy as easy ones (Hase et al.); never above 1."""
    return min(1.0, 2 * p) if arm == "hard" else p


def cost_of(arm: str, n: int, hard_cost: float = 2.0) -> float:
    """Label cost of n problems: an easy label costs 1, a hard one `hard_cost`."""
    return n * (hard_cost if arm == "hard" else 1.0)
