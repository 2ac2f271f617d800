"""The server figure of the scoring benchmark (`reward_scoring.py --only server`)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from reward_material import Clock, solutions

from reward_models.score import Scorer


def server(folder: Path, scorer: Scorer, clock: Clock, duration: float) -> dict[str, Any]:
    """32 clients in a loop against the scorer called directly with the same work, before and after.

    With the CPU clock, throughput is solutions a CPU second of the server process, start-up left out.
    """
    items = solutions(16 * 32, (4, 8), 16, seed=6)
    groups = [items[start : start + 16] for start in range(0, len(items), 16)]
    bodies = [{"query": group[0][0], "documents": ["\n\n".join(parts) for _, parts in group]} for group in groups]
    many = [(group[0][0], parts) for group in groups for _, parts in group]
    list(scorer.score_stream(many[:64]))
    direct = [clock.of(lambda: list(scorer.score_stream(many)))]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "reward_models", "serve", str(folder), "--port", str(port)])
    try:
        times, errors, elapsed, busy = asyncio.run(_drive(f"http://127.0.0.1:{port}", bodies, duration, process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)
    direct.append(clock.of(lambda: list(scorer.score_stream(many))))
    times.sort()
    rate = len(times) * 16 / (busy if clock.name == "cpu" else elapsed)
    alone = [len(many) / spent for spent in direct]
    return {
        "goal": 0.8,
        "share_of_direct": rate / statistics.mean(alone),
        "range": [rate / max(alone), rate / min(alone)],
        "solutions_per_second": rate,
        "direct_solutions_per_second": alone,
        "clients": 32,
        "documents_of_a_request": 16,
        "requests": len(times),
        "errors": errors,
        "p50_s": times[len(times) // 2],
        "p99_s": times[int(len(times) * 0.99)],
        "seconds": elapsed,
        "server_cpu_seconds": busy,
    }


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _drive(
    url: str, bodies: list[dict[str, Any]], duration: float, pid: int
) -> tuple[list[float], int, float, float]:
    times: list[float] = []
    errors = 0
    contents, headers = [json.dumps(body).encode() for body in bodies], {"Content-Type": "application/json"}

    async def client(http: httpx.AsyncClient, number: int, end: float) -> None:
        nonlocal errors
        while time.perf_counter() < end:
            started = time.perf_counter()
            answer = await http.post("/v1/rerank", content=contents[number], headers=headers)
            times.append(time.perf_counter() - started)
            errors += answer.status_code != 200

    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as http:
        for _ in range(6000):
            try:
                await http.get("/health")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        await http.post("/v1/rerank", content=contents[0], headers=headers)
        started, before = time.perf_counter(), _cpu_seconds(pid)
        await asyncio.gather(*(client(http, number, started + duration) for number in range(32)))
        return times, errors, time.perf_counter() - started, _cpu_seconds(pid) - before
