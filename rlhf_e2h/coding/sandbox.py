"""Running a program that nobody has read: in namespaces of its own, under limits, gone when its time is over.

There is no unisolated mode: where the machine does not allow isolation, `SandboxUnavailable` says why and what to do.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

JAIL = Path(__file__).with_name("jail.py")
GRACE = 10.0  # seconds more for the jail to stop a late program itself, before the jail is killed
START = 60.0  # seconds for the jail itself to be built on a busy machine, before the program's own time
TAIL = 300  # characters kept of what the program wrote to standard error

Status = Literal["ok", "error", "time", "memory", "output"]


class SandboxUnavailable(ValueError):  # noqa: N818
    """This machine cannot isolate a program."""


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use."""

    cpu_seconds: int = 4
    wall_seconds: float = 10.0  # of the program; a sleeping one uses no CPU
    memory_mb: int = 256  # address space
    output_bytes: int = 1_000_000  # of standard output, and of each file it writes
    files_mb: int = 16  # all files in its folder, which are in memory

    def __post_init__(self) -> None:
        if (
            self.cpu_seconds < 1
            or self.wall_seconds <= 0
            or self.memory_mb < 32
            or min(self.output_bytes, self.files_mb) < 1
        ):
            raise ValueError(f"{self}: limits must be positive, and an interpreter needs 32 MB")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """How a program ended: "ok" (exit code 0), "error", or the limit that it ran into."""

    status: Status
    output: str
    message: str  # last of standard error
    seconds: float  # wall clock, the jail's own start included


def run_program(source: str, stdin: str = "", limits: Limits | None = None) -> Result:
    """Run Python text on an input, isolated.

    Raises:
        SandboxUnavailable: the machine cannot isolate it; nothing was run.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="e2h-jail-") as name:
        folder = Path(name)
        (folder / "root").mkdir()
        (folder / "program.py").write_text(source, encoding="utf-8", errors="surrogatepass")
        (folder / "stdin").write_text(stdin, encoding="utf-8")
        started = time.monotonic()
        facts, late = _run_jail(folder, limits)
        seconds = time.monotonic() - started
        output = _read(folder / "stdout", limits.output_bytes)
        message = _read(folder / "stderr", limits.output_bytes)[-TAIL:]
    if "refused" in facts:
        raise SandboxUnavailable(
            f"this machine cannot isolate a program ({facts['refused']}), and none is run without isolation; allow "
            "user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=15000) or start the "
            "container with --security-opt seccomp=unconfined --cap-add SYS_ADMIN"
        )
    return Result(_status(facts, late, limits, output, message), output, message.strip(), seconds)


def _run_jail(folder: Path, limits: Limits) -> tuple[dict[str, Any], bool]:
    """The jail's report, and whether the program had to be killed on time; returns when all of it is gone."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-I", "-S", str(JAIL), json.dumps(_settings(folder, limits, write_end))]
    try:
        with (
            (folder / "stdin").open("rb") as stdin,
            (folder / "stdout").open("wb") as stdout,
            (folder / "stderr").open("wb") as stderr,
        ):
            try:
                process = subprocess.Popen(
                    command, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=(write_end,), env={},
                    start_new_session=True, cwd="/",
                )  # fmt: skip
            finally:
                os.close(write_end)
        text, late = _await_report(read_end, process, limits)
    finally:
        os.close(read_end)
    process.wait()
    facts: dict[str, Any] = {}
    for line in text.decode(errors="replace").splitlines():
        facts |= json.loads(line)
    if "started" not in facts:
        facts.setdefault("refused", "the jail did not start" + (f" within {START:.0f} s" if late else ""))
    return facts, late


def _await_report(read_end: int, process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bool]:
    """Read until the last process inside has closed the pipe; kill the outer one when the time is over.

    The first line says that the program starts: its time runs from there, so a busy machine does not shorten it. The
    jail keeps the time; killing it from here is the second stop.
    """
    deadline, text, late, started = time.monotonic() + START, b"", False, False
    while True:
        ready, _, _ = select.select([read_end], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            process.kill()  # its death kills process 1 inside, and that kills the rest
            late, deadline = True, time.monotonic() + START
            continue
        block = os.read(read_end, 65536)
        if not block:
            return text, late
        text += block
        if not started and b"\n" in text:
            started, deadline = True, time.monotonic() + limits.wall_seconds + GRACE


def _settings(folder: Path, limits: Limits, report: int) -> dict[str, Any]:
    python = os.path.realpath(sys.executable)
    places = ["/usr", "/bin", "/lib", "/lib64", os.path.realpath(sys.base_prefix)]
    visible = [place for place in dict.fromkeys(places) if os.path.exists(place)]
    return {
        "root": str(folder / "root"),
        "program": str(folder / "program.py"),
        "python": python,
        "visible": [p for p in visible if not any(p != q and p.startswith(q + "/") for q in visible)],
        "environment": {"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        "report": report,
        "memory_bytes": limits.memory_mb * 2**20,
        "cpu_seconds": limits.cpu_seconds,
        "wall_seconds": limits.wall_seconds,
        "output_bytes": limits.output_bytes,
        "files_bytes": limits.files_mb * 2**20,
    }


def _status(facts: dict[str, Any], late: bool, limits: Limits, output: str, message: str) -> Status:
    code = facts.get("code")
    killed = code in (-signal.SIGXCPU, -signal.SIGKILL)
    if facts.get("late") or (late and code is None) or (killed and facts["cpu"] >= limits.cpu_seconds - 0.5):
        return "time"
    if code == 0:
        return "ok"
    if len(output.encode()) >= limits.output_bytes:
        return "output"
    return "memory" if "MemoryError" in message else "error"


def _read(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        return file.read(limit).decode("utf-8", errors="replace")
