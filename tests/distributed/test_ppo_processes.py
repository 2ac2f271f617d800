"""PPO in two CPU processes (gloo) against one: the same rollouts, and the same losses up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ppo_worker
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlhf_e2h.rl.distributed import start_accelerator

ROOT = Path(__file__).parents[2]
CURVES = ("loss/policy_avg", "loss/value_avg", "objective/kl", "objective/scores", "val/ratio", "policy/entropy_avg")


def launch(name: str, place: Path, port: int, *folders: Path) -> None:
    """Run the worker in two processes under `launch/NAME.yaml`, moved to the CPU; one folder after the other."""
    config = yaml.safe_load((ROOT / "launch" / f"{name}.yaml").read_text())
    config |= {"use_cpu": True, "num_processes": 2, "main_process_port": port}
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += [str(ROOT / "tests/distributed/ppo_worker.py"), *map(str, folders)]
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=600)
    said = [line for line in done.stderr.splitlines() if line.startswith("[rank")]
    assert done.returncode == 0, "\n".join(said) or done.stderr[-3000:]


def result(folder: Path):
    """(metrics of each step, weights)"""
    return json.loads((folder / "history.json").read_text()), load_file(folder / "policy.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """An uninterrupted run in this process, and beside it one that was stopped after four of six steps."""
    folder = tmp_path_factory.mktemp("ppo")
    accelerator = start_accelerator()
    ppo_worker.train(accelerator, folder / "one")
    ppo_worker.train(accelerator, folder / "resumed", folder / "resumed/checkpoints", steps=4)
    return folder


def compare(one, two, losses: float, weights: float) -> None:
    (history, policy), (other, others) = one, two
    assert {row["processes"] for row in other} == {2}  # and not two that each train alone
    assert [row["texts"] for row in history] == [row["texts"] for row in other]
    for a, b in zip(history, other, strict=True):
        assert [a[name] for name in CURVES] == pytest.approx([b[name] for name in CURVES], abs=losses)
    for name, weight in policy.items():
        torch.testing.assert_close(weight, others[name], atol=weights, rtol=0)


def test_two_processes_give_the_single_process_curve_also_when_they_go_on_from_it(one_process, tmp_path):
    launch("ddp_cpu", tmp_path, 29611, tmp_path / "two", one_process / "resumed")
    history, policy = result(one_process / "one")
    compare((history, policy), result(tmp_path / "two"), losses=1e-4, weights=1e-4)
    resumed = result(one_process / "resumed")
    assert [row["step"] for row in resumed[0]] == [4, 5]
    compare((history[4:], policy), resumed, losses=1e-4, weights=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "port"), [("zero1", 29621), ("zero2", 29631), ("zero3", 29641)])
def test_deepspeed_gives_the_single_process_curve(one_process, tmp_path, name, port):
    pytest.importorskip("deepspeed")
    launch(name, tmp_path, port, tmp_path / "two")
    compare(result(one_process / "one"), result(tmp_path / "two"), losses=1e-3, weights=1e-3)
