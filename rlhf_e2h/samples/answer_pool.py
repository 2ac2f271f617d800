"""What judges answers: the symbolic checker, or for labels that are tests of programs what runs them.

The sandbox is loaded by name, and only where a label asks for it: the method itself runs no program.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.apps import is_tests
from rlhf_e2h.data.firewall import Label

PROGRAMS = "rlhf_e2h.coding.pool"  # has ProgramPool


class Judged(Protocol):
    """What a verdict of either kind has."""

    @property
    def equal(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class AnswerPool(Protocol):
    """What both pools are: context managers that judge (gold, answer) pairs in order."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def check(self, pairs: Iterable[tuple[str, str | None]], progress: bool = False) -> Sequence[Judged]: ...


def answer_pool(labels: Mapping[str, Label]) -> AnswerPool:
    """What judges answers to these problems: tests where the labels are tests, else the symbolic checker."""
    first = next(iter(labels.values()), None)
    if first is None or not is_tests(first.answer):
        return CheckerPool()
    pool: AnswerPool = importlib.import_module(PROGRAMS).ProgramPool()
    return pool
