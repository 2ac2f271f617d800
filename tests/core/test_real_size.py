"""The benchmark at real size runs, on the shipped base model; its figures mean nothing there."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/real_size.py"


def test_the_benchmark_runs_and_both_sides_do_the_same_work(tmp_path):
    command = [sys.executable, str(SCRIPT), "--tiny", "--rows", "sft", "--out", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {(one["row"], one["side"]): one for one in json.loads((tmp_path / "found.json").read_text())}
    assert set(found) == {("sft", "ours"), ("sft", "plain")}
    assert found["sft", "ours"]["tokens"] == found["sft", "plain"]["tokens"] > 0
    assert found["sft", "ours"]["cpu"] > 0 and found["sft", "ours"]["peak_mib"] > 0
    # a mean over updates of which order and learning rate differ: near, not equal
    assert abs(found["sft", "ours"]["loss"] - found["sft", "plain"]["loss"]) < 0.1
    assert "| sft | plain |" in done.stdout
