"""What can be told of a label without understanding the text: the control that every probe has to beat.

In PRM800K wrong steps are last and long, answers end in other signs than sentences do; a model's state at a step's last
token holds all of that. A probe that is no better than these columns has learnt nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENDS = (".", "$", "?", "!", ":", ")")


def surface(items: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(N, F): place in the solution, lengths, shares of digits and signs, last character; mean 0 and variance 1."""
    rows = []
    for item in items:
        text = item["text"].strip()
        size = max(len(text), 1)
        rows.append(
            [
                np.log1p(item["step"]), np.log1p(len(text)), np.log1p(len(item["before"])),
                np.log1p(len(item["problem"])), sum(c.isdigit() for c in text) / size,
                sum(not c.isalnum() and not c.isspace() for c in text) / size, float("=" in text), float("\n" in text),
                *(float(text.endswith(end)) for end in ENDS),
            ]
        )  # fmt: skip
    x_NF = np.array(rows, dtype=np.float64)
    scale_F = x_NF.std(0)
    return np.asarray((x_NF - x_NF.mean(0)) / np.where(scale_F > 0, scale_F, 1.0))
