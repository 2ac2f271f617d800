"""Are two answers the same? Safe for text from a model: nothing is evaluated before a whitelist grammar has read it.

Importing this package loads neither torch nor sympy; heavy comparisons run in worker processes that can be killed.
"""

from __future__ import annotations

import threading

from rlhf_e2h.checker.classes import answer_classes
from rlhf_e2h.checker.extract import extract
from rlhf_e2h.checker.pool import CheckerPool
from rlhf_e2h.checker.turns import own_words
from rlhf_e2h.checker.verdict import REASONS, Verdict

__all__ = ["REASONS", "CheckerPool", "Verdict", "answer_classes", "equal", "extract", "own_words"]

_pools: dict[float, CheckerPool] = {}
_lock = threading.Lock()


def equal(gold: str, answer: str | None, timeout: float = 2.0) -> Verdict:
    """Compare one pair; each side is a bare answer or a whole solution text.

    A worker process is started when the first pair needs one, kept for the next call and ended at exit. For many
    pairs use `CheckerPool`.
    """
    with _lock:
        pool = _pools.get(timeout)
        if pool is None:
            pool = _pools[timeout] = CheckerPool(timeout=timeout)
        return pool.check([(gold, answer)])[0]
