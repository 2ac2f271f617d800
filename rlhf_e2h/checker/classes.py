"""Grouping of equal answers for voting."""

from __future__ import annotations

from rlhf_e2h.checker.pool import CheckerPool


def answer_classes(answers: list[str | None], pool: CheckerPool | None = None) -> list[int]:
    """A class number for each answer, in order of first appearance; equal answers share one, None gets -1."""
    own = pool or CheckerPool()
    try:
        numbers: list[int] = []
        seen: dict[str, int] = {}
        representatives: list[str] = []
        for answer in answers:
            if answer is None:
                numbers.append(-1)
                continue
            if answer not in seen:
                verdicts = own.check([(other, answer) for other in representatives])
                same = [index for index, verdict in enumerate(verdicts) if verdict.equal]
                if not same:
                    representatives.append(answer)
                seen[answer] = same[0] if same else len(representatives) - 1
            numbers.append(seen[answer])
        return numbers
    finally:
        if pool is None:
            own.close()
