"""Addition of two numbers of equally many digits, with the scratchpad of Lee et al. 2023 (arXiv 2307.03381).

The level is the number of digits. A step of the detailed scratchpad holds what is left of both numbers, the digits
found so far (a), the carry (c), the sum of the last digits, and the new digit and carry:

    57+68      ac=57+68;a=;c=0;7+8+0 =15=51 | ac=5+6;a=5;c=1;5+6+1 =12=21      and the answer 125

Its layout is such that `solution_formats.simplified` gives the simplified scratchpad, ac=51 | ac=21, and that each
character is a token of `tokenizers.procedural_tokenizer` (hence the space before a sum).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rlhf_e2h.data.made import distinct_rows
from rlhf_e2h.data.sources import Source


def make_addition(level: int, rng: np.random.Generator) -> str:
    """Two numbers of `level` digits, without leading zeros (but for 0 itself)."""
    low = 10 ** (level - 1) if level > 1 else 0
    left, right = rng.integers(low, 10**level, size=2).tolist()
    return f"{left}+{right}"


def scratchpad(problem: str) -> tuple[list[str], str]:
    """A step for each digit, from the last to the first, and the sum."""
    left, right = problem.split("+")
    steps, found, carry = [], "", 0
    for end in range(len(left), 0, -1):
        total = int(left[end - 1]) + int(right[end - 1]) + carry
        state = f"{left[:end]}+{right[:end]};a={found};c={carry};{left[end - 1]}+{right[end - 1]}+{carry} ={total}"
        found, carry = f"{total % 10}{found}", total // 10
        steps.append(f"ac={state}={found[0]}{carry}")
    return steps, str(int(left) + int(right))


def make_problems(n_per_level: dict[int, int], seed: int, exclude: Iterable[str] = ()) -> list[dict[str, Any]]:
    """See `distinct_rows`; a level of d digits has 81 * 100 ** (d - 1) problems, the first one 100."""
    return distinct_rows("addition", n_per_level, seed, exclude, make_addition, scratchpad)


SOURCE = Source("addition", made=make_problems, tokens=(12, 110))
