"""The pool: order, streaming, stuck and dying workers, cache, shutdown."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from rlhf_e2h.checker import CheckerPool, Verdict
from rlhf_e2h.checker import pool as pool_module

SOLVER = [(f"|x-{k}|<2", f"({k - 2},{k + 2})") for k in range(12)]  # each needs a worker
STUCK = ("(1,2)", "x^{29}+x^{17}-x^3+x<1")  # sympy isolates the roots for a long time


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=20.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.05)


def test_order_with_two_workers():
    pairs = []
    for solver in SOLVER[:6]:
        pairs += [solver, ("1", "1"), ("x^2<4", "(-2,3)"), ("1", "2"), ("1", None)]
    with CheckerPool(workers=2, timeout=10.0) as pool:
        verdicts = pool.check(pairs)
        assert len(pool.worker_pids()) == 2
    assert [verdict.equal for verdict in verdicts] == [True, True, False, False, False] * 6
    assert verdicts[4] == Verdict(False, "no_answer")


def test_stream_reads_only_a_window_ahead():
    taken = []

    def source():
        for k in range(3 * pool_module.WINDOW):
            taken.append(k)
            yield str(k), str(k)

    with CheckerPool() as pool:
        stream = pool.stream(source())
        for _ in range(5):
            assert next(stream).equal
        assert len(taken) <= pool_module.WINDOW + 5
        stream.close()
        assert pool.check([]) == []


def test_a_stuck_worker_is_killed_and_loses_nothing_else():
    with CheckerPool(workers=1, timeout=1.0) as pool:
        assert pool.check(SOLVER[:1])[0].equal
        (pid,) = pool.worker_pids()
        started = time.monotonic()
        verdicts = pool.check([SOLVER[1], STUCK, SOLVER[2]])
        assert [verdict.reason for verdict in verdicts] == ["symbolic", "timeout", "symbolic"]
        assert time.monotonic() - started < 15
        assert not alive(pid)
        assert pool.worker_pids() != [pid]


def test_a_worker_killed_from_outside_loses_nothing():
    with CheckerPool(workers=1, timeout=10.0) as pool:
        stream = pool.stream(SOLVER)
        assert next(stream).equal
        os.kill(pool.worker_pids()[0], signal.SIGKILL)
        assert all(verdict.equal for verdict in stream)


def test_two_streams_of_one_pool_do_not_mix():
    with CheckerPool(timeout=10.0) as pool:
        first, second = pool.stream(SOLVER[:4]), pool.stream([("x^2<4", "(-2,3)")] * 4)
        assert [(a.equal, b.equal) for a, b in zip(first, second, strict=True)] == [(True, False)] * 4


def test_no_worker_survives_close():
    pool = CheckerPool(workers=2, timeout=10.0)
    pool.check(SOLVER[:4])
    pids = pool.worker_pids()
    assert len(pids) == 2
    pool.close()
    pool.close()
    assert not any(alive(pid) for pid in pids)


SCRIPT = """
import sys
from rlhf_e2h.checker import CheckerPool
pool = CheckerPool(timeout=60.0)
assert pool.check([("|x|<2", "(-2,2)")])[0].equal
print(pool.worker_pids()[0], flush=True)
{rest}
"""


@pytest.mark.parametrize(
    ("rest", "end"),
    [
        ("sys.exit(0)", None),
        ("raise SystemExit(3)", None),
        (f"pool.check([{STUCK!r}])", signal.SIGINT),
        (f"pool.check([{STUCK!r}])", signal.SIGTERM),
        (f"pool.check([{STUCK!r}])", signal.SIGKILL),
    ],
)
def test_no_orphans_however_the_parent_ends(rest, end):
    """The script has no `__main__` guard, as in a notebook."""
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(rest=rest)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if end is not None:
        time.sleep(0.5)
        parent.send_signal(end)
    parent.wait(timeout=30)
    parent.stdout.close()
    wait_until(lambda: not alive(pid))


def test_forked_child_uses_workers_of_its_own():
    with CheckerPool(timeout=10.0) as pool:
        assert pool.check(SOLVER[:1])[0].equal
        pids = pool.worker_pids()
        child = os.fork()
        if child == 0:
            good = all(verdict.equal for verdict in pool.check(SOLVER[1:3])) and pool.worker_pids() != pids
            pool.close()
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert pool.check(SOLVER[3:5])[0].equal
        assert pool.worker_pids() == pids


def test_cache_on_disk(tmp_path):
    path = tmp_path / "deep" / "verdicts.sqlite"
    with CheckerPool(timeout=10.0, cache_path=path) as pool:
        assert all(verdict.equal for verdict in pool.check(SOLVER[:3]))
        assert pool.check([("x+1", "9^{9^{9^9}}")])[0].reason == "refused"
    with CheckerPool(timeout=10.0, cache_path=path) as pool:
        # Another spelling of the same pair has the same key.
        assert pool.check([(gold, f"$ {answer} $") for gold, answer in SOLVER[:3]]) == [(True, "symbolic")] * 3
        assert pool.worker_pids() == []
    rows = sqlite3.connect(path).execute("SELECT count(*) FROM verdicts").fetchone()[0]
    assert rows == 3


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(ValueError, match=r"notes\.txt.*not a cache"):
        CheckerPool(cache_path=path)


def test_memory_cache_is_bounded(monkeypatch):
    from rlhf_e2h.checker import cache

    monkeypatch.setattr(cache, "MEMORY_ENTRIES", 10)
    with CheckerPool() as pool:
        pool.check([(str(k), str(k)) for k in range(100)])
        assert len(pool._cache._memory) <= 10


@pytest.mark.parametrize(("options", "message"), [({"workers": 0}, "workers is 0"), ({"timeout": 0.0}, "timeout is 0")])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CheckerPool(**options)
