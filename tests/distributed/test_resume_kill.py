"""`kill -9` at a random moment of a training stage; the same command goes on, to the very same weights."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launching import ROOT, e2h, environment, must, write_recipe
from safetensors.torch import load_file, save_file

from reward_models.records import read_jsonl
from rlhf_e2h.rl.checkpoint import last_checkpoint
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.training.checkpoints import checkpoint_to_resume
from rlhf_e2h.training.models import ModelShape

SHAPE = ModelShape(hidden=64, layers=3, intermediate=128, heads=4, max_positions=256)
# long enough to be killed in the middle, with a checkpoint every few steps
TRAINING = {"batch_size": 4, "num_train_epochs": 6, "learning_rate": 1e-3, "max_length": 256, "save_steps": 4}
CHANGES = {"sft": {"training": TRAINING}, "prm": {"training": {**TRAINING, "logging_steps": 1}}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe whose problems are prepared in the folder `runs` beside it."""
    torch.set_num_threads(1)  # as in the processes that are killed
    path = write_recipe(tmp_path_factory.mktemp("kill"), SHAPE, **CHANGES)
    run(path, path.parent / "runs", "prepare")
    return path


def run(recipe: Path, runs: Path, stage: str, *overrides: str) -> None:
    """A stage in this process, uninterrupted."""
    run_recipe(load_recipe(recipe, [f"runs={runs}", *overrides]), only=stage)


def weights(runs: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(next(runs.glob(f"{stage}/*/done.json")).parent / "model.safetensors")


def kill_and_go_on(recipe: Path, runs: Path, stage: str, ready: str, *overrides: str) -> None:
    """Kill the stage a moment after a path like `ready` is there, then run it to its end."""
    command = [sys.executable, "-m", "rlhf_e2h", "run", str(recipe), f"runs={runs}", "--only", stage, *overrides]
    process = subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(runs.glob(ready)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    assert process.wait() == -9, "the stage was over before it could be killed"
    must(e2h("run", recipe, f"runs={runs}", "--only", stage, *overrides))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def compared(recipe, tmp_path, stages: tuple[str, ...], ready: str, *overrides: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(recipe.parent / "runs", whole)
    for earlier in stages[:-1]:
        run(recipe, whole, earlier, *overrides)
    shutil.copytree(whole, killed)
    run(recipe, whole, stages[-1], *overrides)
    kill_and_go_on(recipe, killed, stages[-1], ready, *overrides)
    assert same(weights(whole, stages[-1]), weights(killed, stages[-1]))
    numbers = [read_jsonl(next(runs.glob(f"{stages[-1]}/*/metrics.jsonl"))) for runs in (whole, killed)]
    assert [row.get("step") for row in numbers[0]] == [row.get("step") for row in numbers[1]]


def test_a_killed_sft_stage_ends_with_the_same_weights(recipe, tmp_path):
    compared(recipe, tmp_path, ("sft",), "sft/*/_partial/trainer/checkpoint-*")


def test_a_killed_reward_stage_ends_with_the_same_weights(recipe, tmp_path):
    compared(recipe, tmp_path, ("prm",), "prm/*/checkpoints/checkpoint-*")


def test_a_killed_ppo_stage_ends_with_the_same_weights(recipe, tmp_path):
    longer = ("ppo.steps=8", "ppo.eval_steps=2", "ppo.keep=best", "ppo.kl_target=0.05")
    compared(recipe, tmp_path, ("prm", "ppo"), "ppo/*/_partial/checkpoints/step_*", *longer)


@pytest.mark.parametrize("place", ["round_0", "trainer/checkpoint-*", "judged_*.jsonl"])
def test_a_killed_dpo_stage_ends_with_the_same_weights(recipe, tmp_path, place):
    often = ("dpo.training.save_steps=3", "dpo.training.num_train_epochs=4")
    compared(recipe, tmp_path, ("sft", "prm", "dpo"), f"dpo/*/_partial/{place}", *often)


def test_a_killed_rest_stage_ends_with_the_same_weights(recipe, tmp_path):
    often = ("rest.training.save_steps=2", "rest.problems=12")
    compared(recipe, tmp_path, ("sft", "prm", "rest"), "rest/*/_partial/trainer/checkpoint-*", *often)


def test_half_written_checkpoints_are_passed_over(tmp_path, caplog):
    """The newest whole one is taken, whatever a kill or a full disk left of later ones."""
    for step in (2, 4, 6, 8, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": torch.ones(50)}, folder / "model.safetensors")
        (folder / "optimizer.pt").write_bytes(b"state")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-10/trainer_state.json").unlink()  # killed while weights were written
    (tmp_path / "checkpoint-8/trainer_state.json").write_text('{"global_st')
    whole = (tmp_path / "checkpoint-6/model.safetensors").read_bytes()
    (tmp_path / "checkpoint-6/model.safetensors").write_bytes(whole[:-40])
    (tmp_path / "checkpoint-4/optimizer.pt").write_bytes(b"")
    assert checkpoint_to_resume(tmp_path) == str(tmp_path / "checkpoint-2")
    for words in ("missing or cut short", "model.safetensors is cut short", "optimizer.pt is empty"):
        assert words in caplog.text
    assert checkpoint_to_resume(tmp_path / "none") is None


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing beyond the limit is an error, as on a full disk
from rlhf_e2h.training import arguments as training
from rlhf_e2h.rl import watcher as ppo_watcher
def limited(original, late):
    def function(*given, **named):
        if late(*given):
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        return original(*given, **named)
    return function
sixth = lambda self, args, state, *_: state.global_step == 6
training.Reporter.on_step_end = limited(training.Reporter.on_step_end, sixth)
ppo_watcher.Watcher.on_step = limited(ppo_watcher.Watcher.on_step, lambda self, step, *_: step == 1)
from rlhf_e2h.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("stage", "limit", "kept"),
    [
        ("sft", 20_000, "sft/*/_partial/trainer/checkpoint-4"),
        ("ppo", 20_000, "ppo/*/_partial/checkpoints/step_000001"),
        ("ppo", 200, "ppo/*/_partial/checkpoints/step_000001"),
    ],
    ids=["a checkpoint of SFT", "a checkpoint of PPO", "notes of PPO"],
)
def test_a_full_disk_stops_with_one_sentence_and_loses_nothing(recipe, tmp_path, stage, limit, kept):
    """Files may not grow beyond the limit from the sixth step of SFT, or the second of PPO, on."""
    runs = tmp_path / "runs"
    shutil.copytree(recipe.parent / "runs", runs)
    if stage == "ppo":
        run(recipe, runs, "prm")
    arguments = ["run", str(recipe), f"runs={runs}", "--only", stage]
    command = [sys.executable, "-c", LIMITED.replace("LIMIT,", f"{limit},"), *arguments]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "no room to write" in done.stderr and "Traceback" not in done.stderr
    [checkpoint] = runs.glob(kept)
    assert [folder for folder in checkpoint.parent.iterdir() if folder.is_dir()] == [checkpoint]  # no half-written one
    if stage == "sft":
        assert checkpoint_to_resume(checkpoint.parent) == str(checkpoint)
    else:
        assert last_checkpoint(checkpoint.parent)[0] == checkpoint
