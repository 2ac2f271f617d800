"""`CheckerPool`: many comparisons, in input order, with nothing that an answer can hang or exhaust."""

from __future__ import annotations

import atexit
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from rlhf_e2h.checker import judge
from rlhf_e2h.checker.cache import VerdictCache
from rlhf_e2h.checker.process import WorkerProcess
from rlhf_e2h.checker.verdict import Verdict

Pair = tuple[str, str | None]

WINDOW = 2048  # items read ahead of the oldest undecided one: the memory bound of `stream`
MEMORY_BYTES = 2 << 30  # address space of a worker
TRIES = 2  # a pair whose worker died twice (not by our clock) is refused


class Job:
    """One pair that needs a worker. Equal pairs inside the window share one."""

    __slots__ = ("answer", "gold", "tries", "verdict")

    def __init__(self, gold: str, answer: str) -> None:
        self.gold, self.answer = gold, answer
        self.tries = 0
        self.verdict: Verdict | None = None


class CheckerPool:
    """Context manager around up to `workers` killable processes, started when the first pair needs one.

    Args:
        workers: processes for pairs that text and exact arithmetic cannot decide.
        timeout: seconds of wall clock for one such pair; then its worker is killed and replaced.
        cache_path: SQLite file that keeps workers' verdicts between runs.
    """

    def __init__(self, workers: int = 1, timeout: float = 2.0, cache_path: str | Path | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; give at least 1")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}; give seconds above 0")
        self.workers, self.timeout = workers, timeout
        self._cache = VerdictCache(cache_path, salt=judge.VERSION)
        self._processes: list[WorkerProcess] = []
        self._queue: deque[Job] = deque()
        self._inflight: dict[tuple[str, str], Job] = {}
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._failed_starts = 0
        atexit.register(self.close)

    def __enter__(self) -> CheckerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers and write the cache. Safe to call twice; a pool used again afterwards has no disk cache."""
        atexit.unregister(self.close)
        if os.getpid() != self._owner:
            return
        while self._processes:
            self._processes.pop().kill()
        self._queue.clear()
        self._inflight.clear()
        self._cache.close()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are running; empty as long as no pair has needed one."""
        return [process.pid for process in self._processes]

    def check(self, pairs: Iterable[Pair], progress: bool = False) -> list[Verdict]:
        """Verdicts of (gold, answer) pairs in input order. `progress` shows a bar on standard error."""
        if not progress:
            return list(self.stream(pairs))
        from rlhf_e2h.checker.progress import tracked

        pairs = list(pairs)
        return list(tracked(self.stream(pairs), len(pairs), "checking", "pairs"))

    def stream(self, pairs: Iterable[Pair]) -> Iterator[Verdict]:
        """Verdicts in input order, reading at most `WINDOW` pairs ahead of the one that is yielded."""
        slots: deque[Job | Verdict] = deque()
        for gold, answer in pairs:
            slots.append(self._submit(gold, answer))
            if self._queue or self._inflight:
                self._pump(0.0)
            while slots and ((verdict := _decided(slots[0])) is not None or len(slots) >= WINDOW):
                if verdict is None:
                    self._pump(None)
                else:
                    slots.popleft()
                    yield verdict
        while slots:
            verdict = _decided(slots[0])
            if verdict is None:
                self._pump(None)
            else:
                slots.popleft()
                yield verdict

    def _submit(self, gold: str, answer: str | None) -> Job | Verdict:
        if answer is None:
            return Verdict(False, "no_answer")
        with self._lock:
            found = self._cache.get(gold, answer)
            if found is not None:
                return found
            quick = judge.quick(gold, answer)
            if quick is not None:
                self._cache.put(gold, answer, quick, disk=False)
                return quick
            key = judge.cache_key(gold, answer)
            found = self._cache.get(*key)
            if found is not None:
                return found
            job = self._inflight.get(key)
            if job is None:
                job = self._inflight[key] = Job(gold, answer)
                self._queue.append(job)
            return job

    def _pump(self, wait: float | None) -> None:
        """Hand jobs to idle workers, then take what has arrived. `wait` None: until something arrives or runs out."""
        with self._lock:
            self._leave_behind_after_fork()
            self._assign()
            if not self._processes:
                if wait is None:
                    raise RuntimeError("the pool was closed while a stream of it was still being read")
                return
            now = time.monotonic()
            nearest = min((p.deadline for p in self._processes if p.job or not p.ready), default=now)
            with selectors.DefaultSelector() as selector:
                for process in self._processes:
                    selector.register(process, selectors.EVENT_READ)
                events = selector.select(max(0.0, nearest - now) if wait is None else wait)
            for key, _ in events:
                assert isinstance(key.fileobj, WorkerProcess)
                self._take(key.fileobj)
            now = time.monotonic()
            for process in [p for p in self._processes if (p.job or not p.ready) and now >= p.deadline]:
                if not process.extend_if_starved():
                    self._expire(process)
            self._assign()

    def _assign(self) -> None:
        starting = sum(not p.ready for p in self._processes)
        while len(self._processes) < self.workers and starting < len(self._queue):
            self._processes.append(WorkerProcess(MEMORY_BYTES))
            starting += 1
        for process in list(self._processes):
            if process.ready and process.job is None and self._queue:
                job = self._queue.popleft()
                if not process.send(job, self._request(job), self.timeout):
                    self._queue.appendleft(job)
                    self._drop(process)

    def _request(self, job: Job) -> dict[str, object]:
        return {"gold": job.gold, "answer": job.answer, "limit": self.timeout}

    def _take(self, process: WorkerProcess) -> None:
        rows, alive = process.receive()
        for row in rows:
            if "ready" in row:
                process.ready, self._failed_starts = True, 0
            elif process.job is not None:
                self._finish(process.job, Verdict(row["equal"], row["reason"]))
                process.job = None
        if not alive:
            self._drop(process)

    def _expire(self, process: WorkerProcess) -> None:
        job = process.job
        if job is not None:
            process.job = None
            self._finish(job, Verdict(False, "timeout"))
        self._drop(process)

    def _drop(self, process: WorkerProcess) -> None:
        """Remove a dead or stuck process; a job that it held gets one more try elsewhere."""
        job = process.job
        process.kill()
        self._processes.remove(process)
        if not process.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise RuntimeError(
                    "the checker's worker did not start three times in a row; run "
                    "`python -m rlhf_e2h.checker.worker 2147483648 $$` in a shell to see why"
                )
        if job is not None:
            job.tries += 1
            if job.tries < TRIES:
                self._queue.appendleft(job)
            else:
                self._finish(job, Verdict(False, "refused"))

    def _finish(self, job: Job, verdict: Verdict) -> None:
        job.verdict = verdict
        key = judge.cache_key(job.gold, job.answer)
        self._inflight.pop(key, None)
        self._cache.put(*key, verdict)

    def _leave_behind_after_fork(self) -> None:
        """A forked child must not talk to its parent's workers: both would read each other's verdicts."""
        if os.getpid() != self._owner:
            for process in self._processes:
                process.abandon()
            for held in (p.job for p in self._processes if p.job is not None):
                self._queue.appendleft(held)
            self._processes.clear()
            self._owner = os.getpid()


def _decided(slot: Job | Verdict) -> Verdict | None:
    return slot if isinstance(slot, Verdict) else slot.verdict
