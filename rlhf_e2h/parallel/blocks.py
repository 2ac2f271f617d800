"""Work on many items by several processes, in blocks: whoever is free takes the next one and saves it when it is done.

Nothing waits in a collective while work is going on, so that a slow process holds up nobody until the end, and no
timeout of a collective can cut the work short. The blocks do not depend on the number of processes, so neither does
what is computed. A killed stage, started again on any number of processes, does only what is not saved yet.

A saved part is `rows-START-END.jsonl`: a line with what it has cost, then its rows.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reward_models.records import write_jsonl
from rlhf_e2h.parallel.processes import collective_timeout, wait_for_all
from rlhf_e2h.records import Row

Spend = Callable[[float, float], None]  # counts tokens and floating-point operations
Work = Callable[[int, int, Spend], Sequence[Row]]  # the rows of items START to END
SAVE_SECONDS = 120.0  # a block that took longer is followed by smaller ones
PAUSE = 0.2  # seconds between two looks at what other processes have saved
_PART = re.compile(r"rows-(\d+)-(\d+)\.jsonl")


class Rank(Protocol):
    """A process among others; Accelerate's states and accelerators are such."""

    num_processes: int
    process_index: int
    device: Any


@dataclass(frozen=True)
class Parts:
    """What has been saved of `count` items, in a folder that every process sees."""

    folder: Path
    count: int

    def found(self) -> dict[int, int]:
        """End by start of the saved parts, in order."""
        matches = (_PART.fullmatch(path.name) for path in self.folder.glob("rows-*.jsonl"))
        return dict(sorted((int(m[1]), int(m[2])) for m in matches if m))

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The stretches of START to END that no part covers."""
        for first, last in self.found().items():
            if start < min(first, end):
                yield start, min(first, end)
            start = max(start, last)
        if start < end:
            yield start, end

    def done(self) -> int:
        """Items that are saved."""
        return self.count - sum(end - start for start, end in self.gaps(0, self.count))

    def rows(self) -> Iterator[Row]:
        """The rows of all items, in order."""
        for start, end in self.found().items():
            with self._file(start, end).open(encoding="utf-8") as file:
                yield from map(json.loads, itertools.islice(file, 1, None))

    def cost(self) -> tuple[float, float]:
        """Tokens and floating-point operations of all parts, those of a killed run included."""
        lines = []
        for start, end in self.found().items():
            with self._file(start, end).open(encoding="utf-8") as file:
                lines.append(json.loads(file.readline())["spent"])
        return sum(tokens for tokens, _ in lines), sum(flops for _, flops in lines)

    def spend(self, spend: Spend) -> None:
        """Count what all parts have cost."""
        spend(*self.cost())

    def save(self, start: int, end: int, rows: Sequence[Row], cost: Sequence[float]) -> None:
        """Whole or not at all."""
        write_jsonl(self._file(start, end), [{"spent": list(cost)}, *rows])

    def _file(self, start: int, end: int) -> Path:
        return self.folder / f"rows-{start:08d}-{end:08d}.jsonl"


@dataclass
class _Pace:
    """Items at once: fewer after a block that took long, so that little is lost if the process is killed."""

    items: int
    seconds: float = SAVE_SECONDS
    least: int = 1
    _started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self, items: int) -> None:
        took = time.monotonic() - self._started
        if took > self.seconds:
            self.items = max(self.least, int(min(self.items, items) * self.seconds / took))


def in_blocks(
    folder: Path,
    count: int,
    size: int,
    rank: Rank,
    work: Work,
    on_done: Callable[[int], None] | None = None,
    seconds: float = SAVE_SECONDS,
    least: int = 1,
) -> Parts:
    """Do the `work` on `count` items, with all processes; returns when all of it is saved.

    Args:
        folder: where parts go, empty or left by a killed run with the same items.
        size: most items in a block; it decides what is computed together, and so the last digits of results.
        on_done: gets the number of items that are saved, whoever did them.
        seconds: a block that takes longer is followed by smaller ones.
        least: items in a block that is not made smaller for that.

    Raises:
        TimeoutError: the other processes have saved nothing for as long as a collective may take.
    """
    parts, pace = Parts(folder, count), _Pace(size, seconds, least)
    folder.mkdir(parents=True, exist_ok=True)
    if rank.process_index == 0:
        for claim in folder.glob("claim-*"):  # of a run that was killed
            claim.unlink()
    wait_for_all()
    for start in range(0, count, size):
        if not _claim(folder / f"claim-{start:08d}"):
            continue
        for gap_start, gap_end in list(parts.gaps(start, min(start + size, count))):
            _fill(parts, gap_start, gap_end, pace, work)
            if on_done:
                on_done(parts.done())
    _wait(parts, on_done)
    return parts


def _claim(file: Path) -> bool:
    """Whether this process is the first to ask for a block."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _fill(parts: Parts, start: int, end: int, pace: _Pace, work: Work) -> None:
    while start < end:
        stop = min(start + pace.items, end)
        cost = [0.0, 0.0]

        def spend(tokens: float, flops: float, cost: list[float] = cost) -> None:
            cost[0], cost[1] = cost[0] + tokens, cost[1] + flops

        pace.start()
        rows = work(start, stop, spend)
        pace.stop(stop - start)
        parts.save(start, stop, rows, cost)
        start = stop


def _wait(parts: Parts, on_done: Callable[[int], None] | None) -> None:
    """Until everything is saved. Other processes may need hours, which is no reason to stop; standing still is."""
    done, since = parts.done(), time.monotonic()
    while done < parts.count:
        if time.monotonic() - since > collective_timeout().total_seconds():
            raise TimeoutError(
                f"{parts.folder}: {parts.count - done} of {parts.count} items are missing and no process has saved one "
                f"for {collective_timeout()}; start the same command again (E2H_TIMEOUT_HOURS sets the limit)"
            )
        time.sleep(PAUSE)
        found = parts.done()
        if found > done:
            done, since = found, time.monotonic()
            if on_done:
                on_done(done)
