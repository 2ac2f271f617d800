"""Reading a problem once for all its solutions: the attention cache of the shared tokens is computed for one row.

Right for causal models only, where what stands in front never depends on what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reward_models.encode import Encoded

# Fewer solutions or shorter problems do not repay the second forward pass and the copies of the cache.
MIN_ROWS = 4
MIN_SHARED = 32
MIN_SHARE = 0.3  # of the longest row's tokens

Placed = tuple[int, Encoded]


def can_share(config: Any) -> bool:
    """Whether every layer attends to everything in front; caches of sliding windows and state models differ."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    return not getattr(config, "sliding_window", None)


def shared_groups(rows: Sequence[Placed], problems: Sequence[str]) -> list[tuple[int, list[Placed]]]:
    """Groups of (number of shared tokens, rows), longest row first; 0 tokens where sharing is not worth it.

    `rows` are (place, encoded), longest first, with `problems[place]` the problem.
    """
    by_problem: dict[str, list[Placed]] = {}
    for place, row in rows:
        by_problem.setdefault(problems[place], []).append((place, row))
    alone: list[Placed] = []
    groups: list[tuple[int, list[Placed]]] = []
    for members in by_problem.values():
        shared = common_prefix([row for _, row in members]) if len(members) >= MIN_ROWS else 0
        longest = max(len(row.ids) for _, row in members)
        if shared >= max(MIN_SHARED, MIN_SHARE * longest):
            groups.append((shared, members))
        else:
            alone += members
    alone.sort(key=lambda pair: len(pair[1].ids), reverse=True)
    return [(0, alone), *groups]


def common_prefix(rows: Sequence[Encoded]) -> int:
    """Number of leading tokens that all rows share, kept in front of every scoring position."""
    limit = min(row.positions[0] for row in rows)
    first = rows[0].ids
    for row in rows[1:]:
        while first[:limit] != row.ids[:limit]:
            limit = next(i for i in range(limit) if first[i] != row.ids[i])
    return limit
