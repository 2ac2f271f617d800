"""`ProgramPool`: tests of programs behind the interface of `CheckerPool`, so that stages need not know."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from rlhf_e2h.coding.compare import same_output, same_result
from rlhf_e2h.coding.sandbox import Limits, run_program
from rlhf_e2h.data.apps import Tests

# Runs behind a program that defines a function: arguments come as JSON, the result goes out as JSON.
_DRIVER = """

if __name__ == "__main__":
    import json as _json, sys as _sys
    _arguments = _json.loads(_sys.stdin.read())
    _function = getattr(Solution(), "{name}") if "Solution" in globals() else {name}
    print("\\n" + _json.dumps(_function(*_arguments)))
"""


class ProgramVerdict(NamedTuple):
    """`equal` and `reason` as a checker's verdict; `passed` is the share of tests passed (average accuracy)."""

    equal: bool  # every test passed (strict accuracy)
    reason: str  # tests, wrong, no_answer, or the way the first failing run ended: error, time, memory, output
    passed: float


def run_tests(program: str, tests: Tests, limits: Limits | None = None) -> ProgramVerdict:
    """Run a program on every test. After a run that took all its time the other tests count as failed without a run.

    Raises:
        SandboxUnavailable: this machine cannot isolate programs.
    """
    passed, reason = 0, "tests"
    source = program + _DRIVER.format(name=tests.function) if tests.function else program
    for given, expected in zip(tests.inputs, tests.outputs, strict=True):
        if tests.function:
            result = run_program(source, json.dumps(given), limits)
            right = result.status == "ok" and same_result(expected, result.output)
        else:
            result = run_program(source, "\n".join(map(str, given)) if isinstance(given, list) else str(given), limits)
            right = result.status == "ok" and same_output(expected, result.output)
        passed += right
        if not right and reason == "tests":
            reason = "wrong" if result.status == "ok" else result.status
        if result.status == "time":
            break
    return ProgramVerdict(passed == len(tests.inputs), reason, passed / len(tests.inputs))


class ProgramPool:
    """Context manager that runs up to `workers` programs at once; a program that occurs again is not run again."""

    def __init__(self, workers: int = 0, limits: Limits | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self.limits = limits
        self._known: dict[tuple[str, str], ProgramVerdict] = {}

    def __enter__(self) -> ProgramPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left running: every run has ended when its call returns."""

    def check(self, pairs: Iterable[tuple[str, str | None]], progress: bool = False) -> list[ProgramVerdict]:
        """Verdicts of (tests in JSON, program or None) pairs, in order."""
        listed = list(pairs)
        todo = [
            (tests, program)
            for tests, program in dict.fromkeys(listed)
            if program is not None and (tests, program) not in self._known
        ]
        with ThreadPoolExecutor(self.workers) as threads:
            verdicts = threads.map(lambda pair: run_tests(pair[1], Tests.from_json(pair[0]), self.limits), todo)
            self._known.update(zip(todo, verdicts, strict=True))
        return [
            ProgramVerdict(False, "no_answer", 0.0) if program is None else self._known[tests, program]
            for tests, program in listed
        ]
