"""What is alive in memory after a round of training: nothing of it."""

import subprocess
import sys
from pathlib import Path

import live_worker
import pytest
from launching import cpu_launch, environment, must

WORKER = Path(__file__).parent / "live_worker.py"


def test_nothing_of_a_round_is_alive_after_it(tmp_path):
    live_worker.a_round(tmp_path / "0")
    before = live_worker.live_bytes()
    size = live_worker.a_round(tmp_path / "1")
    assert size > 500_000
    assert live_worker.live_bytes() - before < size / 100


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["zero2", "zero3"])
def test_nothing_of_a_round_under_deepspeed_is_alive_after_it(tmp_path, launch):
    """Its engine, left to itself, would keep weights, gradients, float32 copies and moments until the process ends."""
    pytest.importorskip("deepspeed")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(cpu_launch(launch, tmp_path))]
    done = subprocess.run(
        [*command, str(WORKER), str(tmp_path)], env=environment(), capture_output=True, text=True, timeout=300
    )
    must(done)
    found = [tuple(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line.startswith("LIVE ")]
    assert len(found) == 2 * 4  # of two processes, before and after each of three rounds
    assert all(live < size / 100 for size, live in found)
