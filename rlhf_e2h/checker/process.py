"""One worker process seen from the parent: started without multiprocessing, spoken to in JSON lines, killed outright.

A plain `python -m rlhf_e2h.checker.worker` neither imports the caller's main module nor inherits its CUDA or
thread state, so it works from scripts without a `__main__` guard, from notebooks, threads and every `torchrun` rank.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from typing import Any

START_LIMIT = 60.0  # seconds for the interpreter and sympy to load on a busy machine
MAX_EXTENSIONS = 4


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; infinite where it cannot be read, which leaves the plain clock."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class WorkerProcess:
    """States: starting (no `ready` line yet), idle (`job` is None), busy (`job` set, `deadline` running)."""

    def __init__(self, memory_bytes: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_e2h.checker.worker", str(memory_bytes), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches the parent only; the parent then kills its workers
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._buffer = b""
        self._started = time.monotonic()
        self._cpu_at_start, self._extensions, self._timeout = 0.0, 0, START_LIMIT
        self.ready = False
        self.job: Any = None
        self.deadline = self._started + START_LIMIT

    def fileno(self) -> int:
        return self._stdout.fileno()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, job: Any, request: dict[str, Any], timeout: float) -> bool:
        """Hand over one job; False if the process is gone."""
        assert self.ready and self.job is None
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except (BrokenPipeError, OSError):
            return False
        self.job, self.deadline = job, time.monotonic() + timeout
        self._cpu_at_start, self._extensions, self._timeout = cpu_seconds(self.pid), 0, timeout
        return True

    def extend_if_starved(self) -> bool:
        """On a crowded machine the clock may run out before the job has had its share of a core: then it gets more
        wall clock, a few times at most. A job that computes all the while is never extended."""
        used = cpu_seconds(self.pid) - self._cpu_at_start
        starved = used <= 0.5 * self._timeout  # False for nan, where /proc cannot be read
        if self._extensions >= MAX_EXTENSIONS or not starved:
            return False
        self._extensions += 1
        self.deadline = time.monotonic() + self._timeout
        return True

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Complete lines that have arrived, and whether the process is still there."""
        alive = True
        while True:
            try:
                data = os.read(self._stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                alive = False
                break
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines if line], alive

    def kill(self) -> None:
        """SIGKILL, then reap: no zombie, no orphan."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except BrokenPipeError:  # buffered bytes for a process that is gone
                continue

    def abandon(self) -> None:
        """Forget a process that belongs to another process (after a fork): close our copies, do not kill it."""
        for pipe in (self._stdin, self._stdout):
            pipe.close()
        self._process.returncode = 0  # keeps Popen's destructor from waiting for a child we do not own
