"""The memory figure of the scoring benchmark (`reward_scoring.py --only memory`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from reward_material import solutions

from reward_models.records import write_jsonl


def memory(folder: Path, count: int) -> dict[str, Any]:
    """Memory of `python -m reward_models score MODEL FILE`, a process of its own, while it writes its rows (Linux).

    `resident_mib` is what it holds after a tenth and half of the solutions and 1,000 before the last (the pipe holds
    fewer, so it has not ended), `peak_mib` the most it has held until then. The peak that a process leaves behind
    would not do: it counts the memory of the process that started it.
    """
    source = folder / "solutions.jsonl"
    base = solutions(500, (1, 4), 8, seed=7)
    write_jsonl(source, ({"problem": f"{n} {base[n % 500][0]}", "steps": base[n % 500][1]} for n in range(count)))
    command = [sys.executable, "-m", "reward_models", "score", str(folder), str(source), "--device", "cpu"]
    resident: dict[int, float] = {}
    peak: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        written = 0
        for written, _ in enumerate(process.stdout, start=1):
            if written in (count // 10, count // 2, count - 1000):
                resident[written], peak[written] = _mib(process.pid, "VmRSS"), _mib(process.pid, "VmHWM")
    if process.returncode or written != count:
        raise SystemExit(f"scoring ended with status {process.returncode} after {written} of {count} rows")
    size = source.stat().st_size / 2**20
    return {"solutions": count, "file_mib": size, "resident_mib": resident, "peak_mib": peak}


def _mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
