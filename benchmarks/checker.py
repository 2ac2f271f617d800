"""Answer checkers side by side: ours against Math-Verify 0.9.0, on the same cases and the same machine, in one run.

    python benchmarks/checker.py CASES.jsonl MATH_TRAIN.jsonl                # the tables, as Markdown
    python benchmarks/checker.py CASES.jsonl MATH_TRAIN.jsonl --fuzz 20000   # and the fuzz run

Math-Verify runs one case at a time in a process of its own; a case without answer after `HANG` seconds is a hang and
counts as "not equal". Ours is timed from outside: `CheckerPool.check` on one pair, worker started before.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from checker_fuzz import fuzz

from rlhf_e2h.checker import CheckerPool, extract
from rlhf_e2h.checker.process import cpu_seconds

HANG = 5.0  # seconds
REPEATS = 3
Row = dict[str, Any]
Pair = tuple[str, str]


class Outcome(NamedTuple):
    equal: bool
    seconds: float
    hang: bool = False


class MathVerify:
    """One killable process: `verify(parse("$gold$"), parse(answer))`, with Math-Verify's own time limits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._start()

    def _start(self) -> None:
        command = [sys.executable, __file__, "--serve", str(self._limit)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def check(self, gold: str, answer: str, kind: str) -> Outcome:
        import select

        assert self._process.stdin is not None and self._process.stdout is not None
        started = time.perf_counter()
        self._process.stdin.write(json.dumps([gold, answer, kind]) + "\n")
        self._process.stdin.flush()
        used = cpu_seconds(self._process.pid)
        ready: list[Any] = []
        while not ready and time.perf_counter() - started < 20 * HANG:
            ready, _, _ = select.select([self._process.stdout], [], [], HANG)
            if cpu_seconds(self._process.pid) - used > HANG / 2:  # it computes; a starved process gets more time
                break
        line = self._process.stdout.readline() if ready else ""
        seconds = time.perf_counter() - started
        if not line:
            self.close()
            self._start()
            return Outcome(False, seconds, hang=True)
        return Outcome(json.loads(line), seconds)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(limit: int) -> None:
    """The child: one JSON line in, one out."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer, kind = json.loads(line)
        text = rf"\boxed{{{answer}}}" if kind == "pair" else answer
        try:
            left, right = parse(f"${gold}$", parsing_timeout=limit), parse(text, parsing_timeout=limit)
            same = verify(left, right, timeout_seconds=limit)
        except Exception:  # the peer's crash is a result: not equal
            same = False
        print(json.dumps(bool(same)), flush=True)


def ours_on_cases(cases: list[Row]) -> list[Outcome]:
    outcomes = []
    with CheckerPool() as pool:
        pool.check([("x^2<1", "(-1,2)")])  # start the worker
        for case in cases:
            started = time.perf_counter()
            verdict = pool.check([(case["gold"], case["prediction"])])[0]
            seconds = time.perf_counter() - started
            outcomes.append(Outcome(verdict.equal, seconds, verdict.reason == "timeout" or seconds > HANG))
    return outcomes


def peer_on_cases(cases: list[Row], limit: int) -> list[Outcome]:
    peer = MathVerify(limit)
    try:
        return [peer.check(case["gold"], case["prediction"], case["kind"]) for case in cases]
    finally:
        peer.close()


def case_table(cases: list[Row]) -> list[str]:
    lines = [
        "| grader | core accuracy | false positives | false negatives | median ms | p99 ms | hangs core / adversarial "
        "| wrong adversarial | adversarial total s | all cases total s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    graders = {
        "ours, one worker, limit 2 s": ours_on_cases(cases),
        "Math-Verify 0.9.0, its default limits (5 s)": peer_on_cases(cases, 5),
        "Math-Verify 0.9.0, limits 1 s": peer_on_cases(cases, 1),
    }
    for name, outcomes in graders.items():
        lines.append(f"| {name} | {' | '.join(_case_figures(cases, outcomes))} |")
    return lines


def _case_figures(cases: list[Row], outcomes: list[Outcome]) -> list[str]:
    core, adversarial = [], []
    for case, outcome in zip(cases, outcomes, strict=True):
        if case["category"] == "adversarial":
            adversarial.append((case["expected"], outcome))
        elif not case["contested"]:
            core.append((case["expected"], outcome))
    counts = Counter((expected, outcome.equal) for expected, outcome in core)
    unequal, equal = (sum(counts[expected, found] for found in (True, False)) for expected in (False, True))
    times = sorted(1000 * outcome.seconds for _, outcome in core)
    return [
        f"{(counts[True, True] + counts[False, False]) / len(core):.4f}",
        f"{counts[False, True]}/{unequal}",
        f"{counts[True, False]}/{equal}",
        f"{statistics.median(times):.2f}",
        f"{times[int(0.99 * len(times))]:.1f}",
        f"{sum(o.hang for _, o in core)} / {sum(o.hang for _, o in adversarial)}",
        str(sum(expected != o.equal for expected, o in adversarial)),
        f"{sum(o.seconds for _, o in adversarial):.1f}",
        f"{sum(o.seconds for o in outcomes):.1f}",
    ]


def synthetic_rows(golds: list[str], count: int, seed: int = 0) -> list[Pair]:
    """Identical, reformatted and different answers to MATH problems; each problem has five answers that repeat, as the
    samples of a policy do."""
    rng = random.Random(seed)
    variants: dict[str, list[str]] = {}
    rows = []
    for _ in range(count):
        gold = rng.choice(golds)
        if gold not in variants:
            variants[gold] = [gold, _reformat(gold, rng), _reformat(gold, rng), rng.choice(golds), rng.choice(golds)]
        rows.append((gold, rng.choice(variants[gold])))
    return rows


def _reformat(gold: str, rng: random.Random) -> str:
    return rng.choice(
        [
            gold.replace(r"\frac", r"\dfrac"),
            f"${gold}$",
            re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", gold),
            gold.replace("(", r"\left(").replace(")", r"\right)"),
            re.sub(r"([+=,])", r" \1 ", gold),
            f"x = {gold}",
            rf"{gold}\text{{ units}}",
        ]
    )


def throughput_table(golds: list[str], count: int, peer_count: int) -> list[str]:
    rows = synthetic_rows(golds, count)
    lines = [
        "| grader | workers | rows | seconds, median (min to max) | rows a second | rows a second of CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for workers in (1, 2):
        began, times = cpu_total(), []
        for _ in range(REPEATS):
            forget()
            started = time.perf_counter()
            with CheckerPool(workers=workers) as pool:
                pool.check(rows)
            times.append(time.perf_counter() - started)
        lines.append(_throughput_line("ours", workers, len(rows), times, cpu_total() - began))
    for workers in (1, 2):
        began = cpu_total()
        times = [_peer_seconds(rows[k * peer_count : (k + 1) * peer_count], workers) for k in range(REPEATS)]
        lines.append(_throughput_line("Math-Verify 0.9.0", workers, peer_count, times, cpu_total() - began))
    return lines


def cpu_total() -> float:
    """CPU seconds of this process and its finished children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def forget() -> None:
    """Empty the parser's and normaliser's caches, so that each repeat does all of the work."""
    for module in list(sys.modules.values()):
        if (getattr(module, "__name__", "") or "").startswith("rlhf_e2h.checker"):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


def _peer_seconds(rows: list[Pair], workers: int) -> float:
    """Wall clock for rows shared out to that many processes, each fed in turn."""
    from concurrent.futures import ThreadPoolExecutor

    peers = [MathVerify(5) for _ in range(workers)]

    def feed(index: int) -> None:
        for gold, answer in rows[index::workers]:
            peers[index].check(gold, answer, "pair")

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(feed, range(workers)))
    seconds = time.perf_counter() - started
    for peer in peers:
        peer.close()
    return seconds


def _throughput_line(name: str, workers: int, rows: int, times: list[float], cpu: float) -> str:
    middle = statistics.median(times)
    spread = f"{middle:.2f} ({min(times):.2f} to {max(times):.2f})"
    return f"| {name} | {workers} | {rows} | {spread} | {rows / middle:.0f} | {rows * len(times) / cpu:.0f} |"


def read(path: Path) -> Iterable[Row]:
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, nargs="?")
    parser.add_argument("math", type=Path, nargs="?", help="rows with `answer` or `solution`")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--peer-rows", type=int, default=1000, help="Math-Verify is timed on this many, three times")
    parser.add_argument("--fuzz", type=int, default=0)
    parser.add_argument("--only", choices=["cases", "throughput", "fuzz"])
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    if args.cases is None or args.math is None:
        parser.error("give the case file and the MATH training file")
    cases = list(read(args.cases))
    golds = [answer for row in read(args.math) if (answer := row.get("answer") or extract(row["solution"]))]
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}\n")
    if args.only in (None, "cases"):
        print("\n".join(case_table(cases)), end="\n\n", flush=True)
    if args.only in (None, "throughput"):
        print("\n".join(throughput_table(golds, args.rows, args.peer_rows)), end="\n\n", flush=True)
    if args.fuzz:
        predictions = [case["prediction"] for case in cases if 0 < len(case["prediction"]) < 200]
        print("\n".join(fuzz(golds + predictions, args.fuzz)), flush=True)


if __name__ == "__main__":
    main()
