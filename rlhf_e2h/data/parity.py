"""Parities of the first letters of a text: skills of which each is built on the one before it.

At each of twelve places stands one of two letters, a or b at the first, c or d at the second, and so on. A problem of
level k asks whether those that come second in their pair are odd in number among the first k letters:

    3adehjlmprtux     answer 1: of a, d and e only d comes second in its pair

The answer of level k is that of level k - 1, flipped or not by one more letter. A parity alone gives a gradient nothing
to follow until all its letters are found; with the shorter ones beside it one has to be found at a time (staircases:
Abbe et al. 2022, arXiv 2202.08658). The LEGO chains of Skill-It (arXiv 2307.14430) ask for such products of signs,
whose places have to be looked up first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rlhf_e2h.data.made import distinct_rows
from rlhf_e2h.data.procedural import LETTERS
from rlhf_e2h.data.sources import Source

PLACES = 12


def make_text(level: int, rng: np.random.Generator) -> str:
    return f"{level}" + "".join(LETTERS[2 * place + bit] for place, bit in enumerate(rng.integers(2, size=PLACES)))


def solve(problem: str) -> tuple[list[str], str]:
    """No steps, and the parity, 0 or 1."""
    letters = problem[1 : int(problem[0]) + 1]
    return [], str(sum(LETTERS.index(letter) % 2 for letter in letters) % 2)


def make_problems(n_per_level: dict[int, int], seed: int, exclude: Iterable[str] = ()) -> list[dict[str, Any]]:
    """See `distinct_rows`; each level has 4,096 problems."""
    return distinct_rows("parity", n_per_level, seed, exclude, make_text, solve)


SOURCE = Source("parity", made=make_problems, tokens=(17, 4))
