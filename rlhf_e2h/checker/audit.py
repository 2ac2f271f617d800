"""A second look at verdicts: where Math-Verify alone says something else."""

from __future__ import annotations

from typing import Literal

from rlhf_e2h.checker.pool import CheckerPool, Job
from rlhf_e2h.checker.verdict import Verdict


class SecondGraderPool(CheckerPool):
    """Every pair goes to Math-Verify in a killable worker; of our rules only the limits hold.

    `reading` says what the second of a pair is: the extracted `answer`, or the whole `text` of a solution.
    """

    def __init__(self, workers: int = 1, timeout: float = 2.0, reading: Literal["answer", "text"] = "answer") -> None:
        super().__init__(workers, timeout)
        self._reading = reading

    def _submit(self, gold: str, answer: str | None) -> Job | Verdict:
        if answer is None:
            return Verdict(False, "no_answer")
        with self._lock:
            job = self._inflight.get((gold, answer))
            if job is None:
                job = self._inflight[gold, answer] = Job(gold, answer)
                self._queue.append(job)
            return job

    def _request(self, job: Job) -> dict[str, object]:
        return {**super()._request(job), "reading": self._reading}

    def _finish(self, job: Job, verdict: Verdict) -> None:
        job.verdict = verdict
        self._inflight.pop((job.gold, job.answer), None)
