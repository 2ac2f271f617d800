"""Grouping of equal answers for voting."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rlhf_e2h.checker import judge
from rlhf_e2h.checker.pool import CheckerPool


def answer_classes(answers: Sequence[str | None], pool: CheckerPool | None = None) -> list[int]:
    """A class number for each answer, in order of first appearance; equal answers share one, no answer gets -1.

    Answers are grouped by a canonical key first; only one representative of each group is compared with the
    representatives before it, and only comparisons that exact arithmetic leaves open reach a worker of `pool`
    (a pool of our own if None, started only then).
    """
    own = pool or CheckerPool()
    try:
        return _Classes(own).number_all(answers)
    finally:
        if pool is None:
            own.close()


class _Classes:
    def __init__(self, pool: CheckerPool) -> None:
        self._pool = pool
        self._by_key: dict[Hashable, int] = {}
        self._representatives: list[str] = []

    def number_all(self, answers: Sequence[str | None]) -> list[int]:
        return [-1 if answer is None else self._number(answer) for answer in answers]

    def _number(self, answer: str) -> int:
        key = judge.class_key(answer)
        if key is None:
            return -1
        if key not in self._by_key:
            found = self._find(answer)
            if found is None:
                self._representatives.append(answer)
                found = len(self._representatives) - 1
            self._by_key[key] = found
        return self._by_key[key]

    def _find(self, answer: str) -> int | None:
        open_ones = []
        for index, other in enumerate(self._representatives):
            verdict = judge.quick(other, answer)
            if verdict is None:
                open_ones.append(index)
            elif verdict.equal:
                return index
        verdicts = self._pool.check([(self._representatives[index], answer) for index in open_ones])
        return next((index for index, verdict in zip(open_ones, verdicts, strict=True) if verdict.equal), None)
