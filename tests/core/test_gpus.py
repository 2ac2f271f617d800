"""One GPU a process. The counts of GPUs are made up where there are none; the processes are real."""

import json
import os

import pytest
import torch
from transformers import TrainingArguments

from reward_models.arguments import on_one_device
from rlhf_e2h.parallel import gpus
from rlhf_e2h.runner import pipeline
from rlhf_e2h.runner.environment import forget_accelerate_state
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe


@pytest.fixture
def four(monkeypatch):
    """A machine with four GPUs, as far as torch's count of them goes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")


def test_a_process_alone_keeps_one_gpu_and_says_so(four, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert gpus.visible() == ["4", "5", "6", "7"]
    assert "4 GPUs are visible, one is used (4); `--launch" in gpus.keep_one()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"


def test_a_launched_process_is_left_as_its_launcher_made_it(four, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert gpus.keep_one() is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_jobs_get_the_gpu_that_fewest_use():
    shared = gpus.Shared(["a", "b"])
    assert [shared.take() for _ in range(3)] == ["a", "b", "a"]
    shared.give_back("a")
    shared.give_back("a")
    assert [shared.take(), shared.take()] == ["a", "a"]
    assert gpus.Shared([]).take() is None


def test_stages_at_once_run_on_a_gpu_each(recipe, tmp_path, monkeypatch):
    """Real processes; each says in done.json which GPU it saw."""
    monkeypatch.setattr(gpus, "visible", lambda: ["5", "6"])
    run_recipe(load_recipe(recipe, [f"runs={tmp_path / 'runs'}", "jobs=2", "threads=1"]))
    seen = [json.loads(file.read_text())["gpus"] for file in (tmp_path / "runs").glob("*/*/done.json")]
    assert len(seen) == 4 and set(seen) == {"5", "6"}


def test_what_is_not_launched_runs_beside_a_launch_in_another_process(recipe, tmp_path, monkeypatch):
    """So that the launching process never holds a GPU; without GPUs it saves the start of a process."""
    here = []
    monkeypatch.setattr(pipeline, "run_stage", lambda *_: here.append(os.getpid()))
    monkeypatch.setattr(gpus, "visible", lambda: ["0", "1"])
    run_recipe(load_recipe(recipe, [f"runs={tmp_path / 'runs'}"]), only="prepare", launch="single.yaml")
    assert not here and list((tmp_path / "runs").glob("prepare/*/done.json"))


def test_training_arguments_use_one_gpu_where_four_are_visible(four, monkeypatch, tmp_path):
    """DataParallel would train on four times the batch."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    forget_accelerate_state()
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8)
    assert arguments.n_gpu == 4 and arguments.train_batch_size == 32
    arguments = on_one_device(arguments)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 8


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_grows_its_blocks_unless_the_user_said_how(name):
    environment = {}
    gpus.set_allocator(environment)
    assert environment == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    environment = {name: "max_split_size_mb:512"}
    gpus.set_allocator(environment)
    assert environment == {name: "max_split_size_mb:512"}
