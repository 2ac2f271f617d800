"""Time and memory of a piece of work in a process of its own, for `benchmarks/real_size.py`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def resident_mib(name: str = "VmRSS") -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


class Meter:
    """Made when all libraries are imported and no model is loaded; `start` when the work begins."""

    def __init__(self) -> None:
        self.before = resident_mib()
        self.start()

    def start(self) -> None:
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def found(self, tokens: int, **more: Any) -> None:
        row = {
            "tokens": tokens,
            "seconds": round(time.perf_counter() - self.clock, 2),
            "cpu": round(time.process_time() - self.processor, 2),
            "peak_mib": round(resident_mib("VmHWM") - self.before),
            **more,
        }
        print("FOUND" + json.dumps(row), flush=True)
