"""Curricula: which skills are open at a step, as weights over K skills in order of difficulty.

| curriculum | weights at progress t (0 to 1 of the run) |
|---|---|
| none | the mixture |
| staged | skill k opens at k / K; the mixture among those that are open |
| anti | the same from the hardest skill down |
| linear, log | the easiest share p(t) of all examples: p linear in t, or fast first (Skill-It's pacing) |
| group | one skill after the other, with a share `mixing` of the earlier ones, and a last pass over all |
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curriculum = Literal["none", "staged", "anti", "linear", "log", "group"]
LOG_BASE = 9.0  # log pacing: p = start + (1 - start) * log(1 + 9 t) / log(10)


def weights_at(
    step: int,
    steps: int,
    mixture_K: ArrayLike,
    counts_K: ArrayLike,
    curriculum: Curriculum = "none",
    start: float = 0.2,
    mixing: float = 0.2,
) -> NDArray[np.float64]:
    """Weights of the K skills (easiest first) at a step of a run of `steps`.

    Args:
        mixture_K: weights without a curriculum. counts_K: examples of each skill.
        start: share of the examples open at the first step of `linear` and `log`.
        mixing: share of earlier skills in each stage of `group`.

    Raises:
        ValueError: an unknown curriculum, or start or mixing outside [0, 1].
    """
    mixture_K, counts_K = np.asarray(mixture_K, dtype=np.float64), np.asarray(counts_K, dtype=np.float64)
    if not 0 < start <= 1 or not 0 <= mixing < 1:
        raise ValueError(f"start is {start} and mixing {mixing}; start is above 0 and at most 1, mixing below 1")
    skills = len(mixture_K)
    progress = min(1.0, step / max(1, steps))
    if curriculum == "none":
        return mixture_K / mixture_K.sum()
    if curriculum in ("staged", "anti"):
        open_K = np.arange(skills) <= min(skills - 1, int(progress * skills))
        if curriculum == "anti":
            open_K = open_K[::-1]
        return _shares(np.where(open_K, mixture_K, 0.0), open_K)
    if curriculum in ("linear", "log"):
        pace = progress if curriculum == "linear" else np.log1p(LOG_BASE * progress) / np.log1p(LOG_BASE)
        left = (start + (1 - start) * pace) * counts_K.sum()
        before_K = np.cumsum(counts_K) - counts_K
        opened_K = np.clip(left - before_K, 0, counts_K)
        return opened_K / opened_K.sum()
    if curriculum == "group":
        stage = min(skills, int(progress * (skills + 1)))
        if stage == skills:
            return counts_K / counts_K.sum()
        weights = np.zeros(skills)
        weights[:stage] = mixing * _shares(mixture_K[:stage], np.ones(stage, bool)) if stage else 0.0
        weights[stage] = 1.0 - (mixing if stage else 0.0)
        return weights
    raise ValueError(f"curriculum {curriculum!r} is not known; use none, staged, anti, linear, log or group")


def _shares(weights: NDArray[np.float64], open_K: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights as shares; where the mixture gives nothing to what is open, all of it alike."""
    return weights / weights.sum() if weights.sum() > 0 else open_K / open_K.sum()
