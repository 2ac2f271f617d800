"""A second look at verdicts: where Math-Verify alone says something else."""

from __future__ import annotations

from rlhf_e2h.checker.pool import CheckerPool, Job
from rlhf_e2h.checker.verdict import Verdict


class SecondGraderPool(CheckerPool):
    """Every pair goes to Math-Verify in a killable worker; of our rules only the limits hold."""

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
        return {**super()._request(job), "second": True}

    def _finish(self, job: Job, verdict: Verdict) -> None:
        job.verdict = verdict
        self._inflight.pop((job.gold, job.answer), None)
