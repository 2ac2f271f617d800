"""The sandbox lets programs work and lets none out. Skipped where the machine cannot isolate, which it then says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import HOSTILE

from rlhf_e2h.coding.sandbox import GRACE, START, Limits, Result, SandboxUnavailable, run_program

LIMITS = Limits(cpu_seconds=1, wall_seconds=30, memory_mb=128, output_bytes=100_000, files_mb=4)
SHORT = replace(LIMITS, wall_seconds=2)  # for those that only the clock can stop
SLEEPERS = {"endless sleep", "another program that sleeps", "waits for input that never comes", "thread bomb"}


@pytest.fixture(scope="session", autouse=True)
def _isolation() -> None:
    try:
        run_program("pass")
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def left_running(token: str) -> list[str]:
    """Processes of any namespace whose own /program.py holds the token."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if token in (process / "root" / "program.py").read_text():
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def hostile_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Result, str]]:
    """All hostile programs, two at once; the server and the victim are checked when all have ended."""
    victim = tmp_path_factory.mktemp("host") / "victim"
    victim.write_text("untouched")
    with socket.socket() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.1)
        datagrams.bind(("127.0.0.1", server.getsockname()[1]))
        datagrams.settimeout(0.1)
        filled = {n: s.format(port=server.getsockname()[1], victim=str(victim)) for n, s in HOSTILE.items()}
        tokens = {name: uuid.uuid4().hex for name in filled}
        with ThreadPoolExecutor(2) as threads:
            run = {
                name: threads.submit(
                    run_program, f"# {tokens[name]}\n{source}", "", SHORT if name in SLEEPERS else LIMITS
                )
                for name, source in filled.items()
            }
            results = {name: (future.result(), tokens[name]) for name, future in run.items()}
        with pytest.raises(TimeoutError):
            server.accept()
        with pytest.raises(TimeoutError):
            datagrams.recv(1)
    assert victim.read_text() == "untouched"
    return results


def test_there_are_enough_hostile_programs() -> None:
    assert len(HOSTILE) >= 30


# What must stop these; all others may end as they like, as long as they have not escaped.
STOPPED_BY = {
    "endless loop": "time",
    "endless sleep": "time",
    "deaf to signals": "time",
    "one endless operation in C": "time",
    "another program that sleeps": "time",
    "waits for input that never comes": "time",
    "ten gigabytes at once": "memory",
    "ten gigabytes bit by bit": "memory",
    "endless output": "output",
    "fork bomb": "error",
    "connects to the host": "error",
    "deletes a file of the host": "error",
    "fills the disk": "error",
    "one huge file": "error",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_contained(name: str, hostile_results: dict[str, tuple[Result, str]]) -> None:
    result, token = hostile_results[name]
    assert "ESCAPED" not in result.output, result
    assert result.status == STOPPED_BY.get(name, result.status), result
    assert result.seconds < START + LIMITS.wall_seconds + GRACE  # START is for the jail itself on a busy machine
    assert len(result.output) <= LIMITS.output_bytes
    assert left_running(token) == []


def test_time_of_a_sleeping_program_is_its_own() -> None:
    started = time.monotonic()
    assert run_program("import time; time.sleep(600)", limits=SHORT).status == "time"
    assert time.monotonic() - started < START + SHORT.wall_seconds + GRACE


@pytest.mark.parametrize(
    ("source", "stdin", "output"),
    [
        ("print(int(input()) + 1)", "41\n", "42\n"),
        ("import sys\nprint(sum(map(int, sys.stdin)))", "1\n2\n", "3\n"),
        ("open('a', 'w').write('kept'); print(open('a').read())", "", "kept\n"),  # its own folder is writable
        ("import threading\nt = threading.Thread(target=print, args=('ran',)); t.start(); t.join()", "", "ran\n"),
        ("import math, collections, heapq, itertools, json, re, random\nprint(math.gcd(12, 18))", "", "6\n"),
        ("print('Grüße')", "", "Grüße\n"),
        ("print(hash('a') == hash('a')); exit()", "", "True\n"),
    ],
)
def test_ordinary_programs_work(source: str, stdin: str, output: str) -> None:
    result = run_program(source, stdin, LIMITS)
    assert (result.status, result.output) == ("ok", output), result.message


def test_a_failing_program_says_why() -> None:
    result = run_program("1 / 0", limits=LIMITS)
    assert result.status == "error" and result.message.endswith("ZeroDivisionError: division by zero")


def test_the_callers_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    result = run_program("import os; print(sorted(os.environ), os.getcwd(), os.listdir('.'))", limits=LIMITS)
    assert result.output == "['HOME', 'LANG', 'LC_CTYPE', 'PATH', 'PYTHONHASHSEED'] /work []\n" or (
        result.output == "['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED'] /work []\n"
    )


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="an interpreter needs 32 MB"):
        Limits(memory_mb=1)


_NO_NAMESPACES = """
import ctypes, sys
class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
import platform, struct
number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
op = lambda code, k, true=0, false=0: struct.pack("HBBI", code, true, false, k)
code = op(0x20, 0) + op(0x15, number, 0, 1) + op(0x06, 0x50001) + op(0x06, 0x7FFF0000)
buffer = ctypes.create_string_buffer(code, len(code))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.cast(buffer, ctypes.c_void_p))), 0, 0) == 0
from rlhf_e2h.coding.sandbox import run_program
try:
    print("RAN", run_program("print(1)"))
except ValueError as error:
    print(error)
"""


def test_refused_where_isolation_is_missing() -> None:
    """A machine without namespaces, as many containers are: `unshare` is refused, and so is the program."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _NO_NAMESPACES], capture_output=True, text=True, timeout=120, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert "this machine cannot isolate a program (PermissionError" in done.stdout, done.stdout + done.stderr
    assert "user.max_user_namespaces" in done.stdout and "RAN" not in done.stdout
