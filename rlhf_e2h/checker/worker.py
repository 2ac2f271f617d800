"""The killable process: `python -m rlhf_e2h.checker.worker MEMORY_BYTES PARENT_PID`.

Reads {"gold", "answer", "limit"} a line, writes {"equal", "reason"} a line. It ends when its input ends, when its
parent is gone, or when its CPU limit is reached; the parent kills it when the wall clock runs out.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import threading
import time
from typing import BinaryIO

PARENT_POLL = 1.0  # seconds


def main(argv: list[str]) -> int:
    memory, parent = int(argv[1]), int(argv[2])
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints may enter the protocol
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()

    from rlhf_e2h.checker import judge, second_opinion

    readings = {
        None: judge.full,
        "answer": second_opinion.math_verify_alone,
        "text": second_opinion.math_verify_in_text,
    }
    judge.preload()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _write(out, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_cpu(request["limit"])
        try:
            equal, reason = readings[request.get("reading")](request["gold"], request["answer"])
        except (
            MemoryError,
            RecursionError,
            ArithmeticError,
            ValueError,
            TypeError,
            NotImplementedError,
            AttributeError,
        ):
            # sympy and Math-Verify raise these on odd input; the item is lost, the worker goes on.
            equal, reason = False, "refused"
        _write(out, {"equal": equal, "reason": reason})
    return 0


def _write(out: BinaryIO, row: dict[str, object]) -> None:
    out.write(json.dumps(row).encode() + b"\n")
    out.flush()


def _limit_cpu(wall_limit: float) -> None:
    """A second stop behind the parent's clock, for a parent that was itself killed while we hold the interpreter."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowance = math.ceil(usage.ru_utime + usage.ru_stime + 2 * wall_limit + 2)
    resource.setrlimit(resource.RLIMIT_CPU, (allowance, resource.RLIM_INFINITY))


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
