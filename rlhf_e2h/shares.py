"""Work on many problems or solutions, divided among the processes that were started together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from rlhf_e2h.bank import Row
from rlhf_e2h.rl.distributed import gather_json

T = TypeVar("T")
Spend = Callable[[float, float], None]  # counts tokens and floating-point operations


class Place(Protocol):
    """A process among others; Accelerate's states and accelerators are such."""

    num_processes: int
    process_index: int
    device: Any


def share(items: Sequence[T], place: Place) -> tuple[int, Sequence[T]]:
    """(number of the first, items) of this process: parts in order, as equal as they can be."""
    start, end = (len(items) * (place.process_index + k) // place.num_processes for k in (0, 1))
    return start, items[start:end]


def divided(
    items: Sequence[Row], place: Any, work: Callable[[Sequence[Row], int, Spend], Sequence[Row]], spend: Spend
) -> list[Row]:
    """The rows that `work` makes of all items, on every process, each of which has done its share.

    Args:
        work: gets items, the number of the first of them among all, and what counts its cost.
        spend: gets the cost of all processes, on each.
    """
    start, own = share(items, place)
    costs: list[tuple[float, float]] = []
    rows = work(own, start, lambda *cost: costs.append(cost))
    parts = gather_json(place, [rows, costs])
    for cost in (cost for _, costs in parts for cost in costs):
        spend(*cost)
    return [row for rows, _ in parts for row in rows]
