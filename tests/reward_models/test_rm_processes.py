"""Training in two CPU processes equals training in one, however the model is divided: batch and mean are global."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import FAST, words_task
from safetensors.torch import load_file

from reward_models.records import write_jsonl
from reward_models.train import train

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "num_train_epochs=2",
    "batch_size=16",
    "learning_rate=0.01",
    "max_length=128",
    "group_by_length=false",
    "logging_steps=1",
    "eval_steps=4",
]


def launch_file(name, folder):
    """`launch/NAME.yaml` for two CPU processes."""
    config = yaml.safe_load((ROOT / "launch" / f"{name}.yaml").read_text())
    config |= {"use_cpu": True, "num_processes": 2, "main_process_port": 0}  # the launcher finds a free one
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def train_under(launch, base, folder, *settings):
    """Weights and report of one training by the command line, alone or under a launch file."""
    command = [sys.executable, "-m"]
    if launch:
        command += ["accelerate.commands.launch", "--config_file", launch_file(launch, folder), "-m"]
    out = folder / "_".join([launch or "alone", *settings])
    records = [str(folder / name) for name in ("train.jsonl", "held_out.jsonl")]
    command += ["reward_models", "train", str(base), records[0], str(out), "--kind", "prm", "--validation", records[1]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    # Accelerate's FSDP is for GPUs; what is found here first makes it run without
    environment["PYTHONPATH"] = f"{ROOT / 'tests/fsdp_on_cpu'}:{ROOT}" if launch == "fsdp" else str(ROOT)
    done = subprocess.run(
        [*command, *SETTINGS, *settings], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(out / "model.safetensors"), json.loads((out / "training.json").read_text())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder with records."""
    folder = tmp_path_factory.mktemp("processes")
    for name, count, seed in (("train.jsonl", 64, 1), ("held_out.jsonl", 20, 2)):
        write_jsonl(folder / name, [record.to_row() for record in words_task(count, seed)])
    return folder


@pytest.fixture(scope="module")
def alone(base, records):
    """The folder with the records, and what one process makes of them."""
    return records, *train_under(None, base, records)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3", "fsdp"])
def test_two_processes_train_what_one_trains(launch, base, alone):
    folder, one, first = alone
    two, second = train_under(launch, base, folder)
    assert first["steps"] == second["steps"] == 8
    assert second["train_loss"] == pytest.approx(first["train_loss"], abs=1e-3)
    assert second["validation"]["step_auc"] == pytest.approx(first["validation"]["step_auc"], abs=0.02)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3", "fsdp"])
@pytest.mark.parametrize("merged", ["share_prefixes", "padding_free"])
def test_two_processes_read_merged_rows_as_one_does(launch, merged, base, records):
    """Micro-batches of one size, because rows are merged by it."""
    settings = [f"{merged}=true", "per_device_train_batch_size=8"]
    one, first = train_under(None, base, records, *settings)
    two, second = train_under(launch, base, records, *settings)
    assert first["tokens"] == second["tokens"] and first["steps"] == second["steps"] == 8
    assert second["train_loss"] == pytest.approx(first["train_loss"], abs=1e-3)
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)


@pytest.fixture(scope="module", params=[0, 4], ids=["full", "lora"])
def in_bf16(request, base, records):
    """Settings with the rank of adapters, and what one process makes of the records in bf16."""
    settings = ["bf16=true", f"lora.r={request.param}"]
    return settings, *train_under(None, base, records, *settings)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3", "fsdp"])
def test_two_processes_train_in_bf16_what_one_trains_and_save_float32_weights(launch, base, records, in_bf16):
    """DeepSpeed computes in bf16 where others use autocast, so losses agree to its three digits only."""
    settings, one, first = in_bf16
    lora = settings[-1] != "lora.r=0"
    if lora and launch in ("zero3", "fsdp"):
        pytest.skip("adapters are not trained where weights are sharded")
    two, second = train_under(launch, base, records, *settings)
    assert second["train_loss"] == pytest.approx(first["train_loss"], abs=2e-2)
    assert one.keys() == two.keys()
    assert {weight.dtype for weight in two.values()} == {torch.float32}
    assert all(torch.allclose(one[name], two[name], atol=3e-2) for name in one)
    before = load_file(base / "model.safetensors")
    trained = {n: weight for n, weight in two.items() if n in before and not torch.equal(weight, before[n])}
    assert trained and not any(rounded(weight) for weight in trained.values())
    place = records / "_".join([launch, *settings])
    assert json.loads((place / "config.json").read_text())["dtype"] == "float32"
    if lora:  # what is not trained is exactly the base's, and the adapter is not rounded either
        assert torch.equal(two["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
        adapter = load_file(place / "adapter/adapter_model.safetensors")
        assert not any(rounded(weight) for weight in adapter.values() if weight.any())  # the bias stays 0


def rounded(weight):
    """Whether bf16 would hold it exactly."""
    return torch.equal(weight, weight.bfloat16().float())


def test_fsdp_that_was_asked_for_and_is_not_there_is_refused(base, tmp_path, monkeypatch):
    """Accelerate would train with DDP without a word, each process with the whole model."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="asks for FSDP, but Accelerate uses NO"):
        train(base, words_task(16, 1), "prm", tmp_path / "out", FAST)
