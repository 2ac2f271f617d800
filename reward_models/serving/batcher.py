"""Dynamic batching: requests that arrive together share forward passes. One worker thread owns the model.

The queue is bounded in solutions, so a burst is refused at the door (the server answers 429) instead of growing until
the machine dies. `close` answers everything that was accepted.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_models.score import Scorer, StepScores

# Solutions taken from the queue at once; the scorer cuts them into batches of tokens itself.
TAKE = 512


class QueueFullError(RuntimeError):
    """More solutions are waiting than the limit allows."""


@dataclass
class _Job:
    items: Sequence[tuple[str, Sequence[str]]]
    future: asyncio.Future[list[StepScores]]
    overlong: str | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class Batcher:
    """Collects jobs of (problem, steps) items and scores them in the order of arrival."""

    def __init__(self, scorer: Scorer, max_queue: int = 4096, observe: Any = None) -> None:
        """`observe(solutions, tokens)` is called after each pass over the queue."""
        self._scorer, self._max_queue, self._observe = scorer, max_queue, observe
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="reward-scorer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Solutions accepted and not yet taken up."""
        return self._waiting

    async def score(self, items: Sequence[tuple[str, Sequence[str]]], overlong: str | None = None) -> list[StepScores]:
        """Scores of the items, in their order; `overlong` overrules the scorer's policy for them.

        Raises:
            QueueFullError: the queue holds too much already.
        """
        job = _Job(items, asyncio.get_running_loop().create_future(), overlong)
        with self._wake:
            if self._closed:
                raise QueueFullError("the server is shutting down")
            if self._waiting + len(items) > self._max_queue:
                raise QueueFullError(f"{self._waiting} solutions are waiting, the limit is {self._max_queue}")
            self._jobs.append(job)
            self._waiting += len(items)
            self._wake.notify()
        return await job.future

    def close(self) -> None:
        """Take no more jobs, answer those accepted, and stop the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    self._wake.wait()
                if not self._jobs:
                    return
                jobs = self._take()
            for policy in dict.fromkeys(job.overlong for job in jobs):
                self._answer([job for job in jobs if job.overlong == policy])

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        count = 0
        while self._jobs and (not jobs or count + len(self._jobs[0].items) <= TAKE):
            jobs.append(self._jobs.popleft())
            count += len(jobs[-1].items)
        self._waiting -= count
        return [job for job in jobs if not job.future.cancelled()]  # a client that left needs no answer

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Score jobs of one policy together."""
        items = [item for job in jobs for item in job.items]
        try:
            scores = list(self._scorer.score_stream(items, overlong=jobs[0].overlong))
        except Exception as error:
            if len(jobs) == 1:
                _deliver(jobs[0], error=error)
            else:  # find out whose fault it is: the others get their scores
                for job in jobs:
                    self._answer([job])
            return
        if self._observe is not None:
            self._observe(len(scores), sum(score.tokens for score in scores))
        start = 0
        for job in jobs:
            _deliver(job, scores[start : start + len(job.items)])
            start += len(job.items)


def _deliver(job: _Job, scores: list[StepScores] | None = None, error: Exception | None = None) -> None:
    def settle() -> None:
        if job.future.done():
            return
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(scores or [])

    job.loop.call_soon_threadsafe(settle)
