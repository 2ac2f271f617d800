"""Stages of a small recipe, started for real by `e2h run --launch` in CPU processes."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

ROOT = Path(__file__).parents[2]
FSDP_ON_CPU = {
    "PYTHONPATH": f"{ROOT / 'tests/fsdp_on_cpu'}:{ROOT}"
}  # the FSDP of Hugging Face's trainers, without GPUs
SHAPE = ModelShape(hidden=32, layers=2, intermediate=64, heads=2, max_positions=256)
TRAINING = {"batch_size": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 128}
STAGES = {
    "1_prepare": {
        "stage": "prepare",
        "source": "procedural",
        "train_per_level": [12] * 5,
        "validation_per_level": [2] * 5,
        "test_per_level": [2] * 5,
    },
    # 36 solutions in batches of 8: the last batch of an epoch is uneven
    "2_sft": {"stage": "sft", "policy": "${base}", "data": "@prepare", "training": {**TRAINING, "num_train_epochs": 2}},
    "3_prm": {
        "stage": "reward",
        "kind": "prm",
        "base": "${base}",
        "data": "@prepare",
        "reference_solutions": True,
        "flip_labels": 0.3,  # written solutions alone are all right, and one class is refused
        "held_out": 0.2,
        "training": {**TRAINING, "num_train_epochs": 2, "max_length": 256, "logging_steps": 1},
    },
    "4_bank": {
        "stage": "sample",
        "policy": "${base}",
        "data": "@prepare",
        "limit": 13,  # an uneven share for each of two processes
        "chunk": 9,
        "decoding": {"n": 3, "max_new_tokens": 20},
    },
    "5_rerank": {"stage": "rerank", "samples": "@bank", "data": "@prepare", "reward_models": {"prm": "@prm"}},
    "6_evaluate": {
        "stage": "evaluate",
        "data": "@prepare",
        "policies": {"base": "${base}", "sft": "@sft"},
        "reward_models": {"prm": "@prm"},
        "judge": "prm",
        "max_new_tokens": 20,
    },
    "4_ppo": {
        "stage": "ppo",
        "policy": "${base}",
        "data": "@prepare",
        "reward_model": "@prm",
        "steps": 3,
        "rollouts": 16,
        "num_mini_batches": 2,
        "per_device_train_batch_size": 4,
        "max_new_tokens": 10,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "max_grad_norm": 10.0,  # not reached: DeepSpeed has one norm for both models
        "save_steps": 1,
    },
    "4_grpo": {
        "stage": "grpo",
        "policy": "${base}",
        "data": "@prepare",
        "reward_model": "@prm",
        "problems": 8,
        "num_generations": 4,
        "max_new_tokens": 10,
        "training": {**TRAINING, "per_device_train_batch_size": 2, "num_train_epochs": 2},
    },
    "5_dpo": {
        "stage": "dpo",
        "policy": "@sft",
        "data": "@prepare",
        "reward_model": "@prm",
        "problems": 25,  # an uneven share for each of two processes
        "rounds": 2,
        "margin": -1.0,
        "margin_unlabelled": -1.0,
        "decoding": {"n": 16, "max_new_tokens": 120},
        "training": {
            **TRAINING,
            "batch_size": 4,
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "learning_rate": 1e-4,
        },
    },
    "5_rest": {
        "stage": "rest",
        "policy": "@sft",
        "data": "@prepare",
        "reward_model": "@prm",
        "levels": [4, 5],
        "problems": 23,
        "rounds": 2,
        "threshold": 0.0,
        "decoding": {"n": 16, "max_new_tokens": 120},
        "training": {
            **TRAINING,
            "batch_size": 4,
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "learning_rate": 1e-4,
        },
    },
}


def write_recipe(folder: Path, shape: ModelShape = SHAPE, **changes: dict) -> Path:
    """A recipe folder; `changes` are settings by stage name."""
    save_policy(*new_llama(shape, "procedural", 0), folder / "base")
    recipe = folder / "recipe"
    recipe.mkdir(parents=True)
    common = {"name": "small", "variables": {"base": str(folder / "base")}}
    (recipe / "recipe.yaml").write_text(yaml.safe_dump(common))
    for name, settings in STAGES.items():
        merged = {**settings, **changes.get(name.partition("_")[2], {})}
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(merged))
    return recipe


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_launch(name: str, folder: Path, **changes: object) -> Path:
    """`launch/NAME.yaml` for two CPU processes; the launcher finds a port."""
    config = yaml.safe_load((ROOT / "launch" / f"{name}.yaml").read_text())
    config |= {"use_cpu": True, "num_processes": 2, "main_process_port": 0, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    with file.open("x") as out:  # a launcher reads it seconds after its start: not to be written again before that
        out.write(yaml.safe_dump(config))
    return file


def environment(**more: str) -> dict[str, str]:
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **settings, **more}


def e2h(*arguments: object, timeout: float = 900, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlhf_e2h", *map(str, arguments)]
    return subprocess.run(command, env=environment(**more), cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def finish(*launchers: subprocess.Popen, logs: list[Path], timeout: float = 300) -> None:
    """Wait until all have ended well; if one fails, or time is up, stop the others and show what each wrote."""
    deadline = time.monotonic() + timeout
    codes = [one.poll() for one in launchers]  # None: still at work
    while None in codes and not any(codes) and time.monotonic() < deadline:
        time.sleep(0.1)
        codes = [one.poll() for one in launchers]
    for one in launchers:
        _stop(one)
    said = "\n".join(f"{log}:\n{_errors(log.read_text())}" for log in logs)
    assert not any(codes), f"ended with {codes}\n{said}"
    assert None not in codes, f"not finished after {timeout:.0f} s\n{said}"


def _stop(launcher: subprocess.Popen, patience: float = 10) -> None:
    """End a launcher and its workers: it stops them when asked, but is deaf while it waits for other launchers."""
    launcher.terminate()
    try:
        launcher.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()


def _errors(text: str) -> str:
    """What ranks say, without what their launcher adds; or the end of it all."""
    said = [line for line in text.splitlines() if line.startswith("[rank")]
    return "\n".join(said[-40:]) or text[-3000:]


def must(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, _errors(done.stderr)
