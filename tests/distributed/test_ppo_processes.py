"""PPO in two CPU processes (gloo) against one: the same rollouts, and the same losses up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CURVES = ("loss/policy_avg", "loss/value_avg", "objective/kl", "objective/scores", "val/ratio", "policy/entropy_avg")
_ports = iter(range(29610, 29700))


def launch(out: Path, name: str, tmp_path: Path, processes: int = 2, **environment: str):
    """(metrics of each step, weights) of a run under `launch/NAME.yaml`, moved to the CPU."""
    config = yaml.safe_load((ROOT / "launch" / f"{name}.yaml").read_text())
    config |= {"use_cpu": True, "num_processes": processes, "main_process_port": next(_ports)}
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += [str(ROOT / "tests/distributed/ppo_worker.py"), str(out)]
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env={**os.environ, **settings, **environment}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "rank" in line) or done.stderr[-3000:]
    return json.loads((out / "history.json").read_text()), load_file(out / "policy.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return launch(folder / "out", "single", folder, processes=1)


def compare(one, two, losses: float, weights: float) -> None:
    (history, policy), (other, others) = one, two
    assert {row["processes"] for row in other} == {2}  # and not two that each train alone
    assert [row["texts"] for row in history] == [row["texts"] for row in other]
    for a, b in zip(history, other, strict=True):
        assert [a[name] for name in CURVES] == pytest.approx([b[name] for name in CURVES], abs=losses)
    for name, weight in policy.items():
        torch.testing.assert_close(weight, others[name], atol=weights, rtol=0)


def test_two_processes_give_the_single_process_curve(one_process, tmp_path):
    compare(one_process, launch(tmp_path / "out", "ddp_cpu", tmp_path), losses=1e-4, weights=1e-4)


def test_resume_may_change_the_number_of_processes(one_process, tmp_path):
    # four steps in one process, checkpoints at 2 and 4, the last two steps in two processes
    launch(tmp_path / "out", "single", tmp_path, processes=1, CHECKPOINTS="1", STEPS="4")
    history, weights = launch(tmp_path / "out", "ddp_cpu", tmp_path, CHECKPOINTS="1")
    assert [row["step"] for row in history] == [4, 5]
    compare((one_process[0][4:], one_process[1]), (history, weights), losses=1e-4, weights=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_deepspeed_gives_the_single_process_curve(one_process, tmp_path, name):
    pytest.importorskip("deepspeed")
    compare(one_process, launch(tmp_path / "out", name, tmp_path), losses=1e-3, weights=1e-3)
