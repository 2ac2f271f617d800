"""Training in two processes equals training in one: batch and token-weighted mean are global."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import words_task
from safetensors.torch import load_file

from reward_models.records import write_jsonl

ROOT = Path(__file__).parents[2]


def train_in(processes, base, records, out):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    task = ["-m", "reward_models", "train", str(base), str(records), str(out), "--kind", "prm"]
    settings = [
        "epochs=2",
        "batch_size=16",
        "learning_rate=0.01",
        "max_length=128",
        "group_by_length=false",
        "log_every=1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, *task, *settings], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out / "model.safetensors"), json.loads((out / "training.json").read_text())


@pytest.mark.slow
def test_two_processes_train_what_one_trains(base, tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [record.to_row() for record in words_task(64, 1)])
    one, first = train_in(1, base, tmp_path / "r.jsonl", tmp_path / "one")
    two, second = train_in(2, base, tmp_path / "r.jsonl", tmp_path / "two")
    assert first["steps"] == second["steps"] == 8
    assert second["train_loss"] == pytest.approx(first["train_loss"], abs=1e-3)
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
