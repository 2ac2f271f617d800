"""PPO in two CPU processes (gloo) against one: the same rollouts, and the same losses up to rounding."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ppo_worker
import pytest
import torch
from launching import cpu_launch, environment, finish, free_port
from safetensors.torch import load_file

from rlhf_e2h.parallel.gathering import start_accelerator

WORKER = Path(__file__).parent / "ppo_worker.py"
CURVES = ("loss/policy_avg", "loss/value_avg", "objective/kl", "objective/scores", "val/ratio", "policy/entropy_avg")


def start(
    name: str, place: Path, port: int, *folders: Path | str, worker: Path = WORKER, **changes: object
) -> subprocess.Popen:
    """Start the worker under `launch/NAME.yaml`, moved to the CPU; one folder after the other."""
    file = cpu_launch(name, place, main_process_port=port, **changes)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += [str(worker), *map(str, folders)]
    with (place / "errors.log").open("w") as errors:  # no pipe: one that nobody reads is full at some time
        return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=errors)


def launch(name: str, place: Path, port: int, *folders: Path | str) -> None:
    """The worker in two processes, to its end."""
    finish(start(name, place, port, *folders), logs=[place / "errors.log"])


def result(folder: Path):
    """(metrics of each step, weights)"""
    return json.loads((folder / "history.json").read_text()), load_file(folder / "policy.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """An uninterrupted run in this process, and beside it one that was stopped after four of six steps."""
    folder = tmp_path_factory.mktemp("ppo")
    accelerator = start_accelerator()
    ppo_worker.train(accelerator, folder / "one")
    ppo_worker.train(accelerator, folder / "stopped", folder / "stopped/checkpoints", steps=4)
    return folder


def compare(one, two, losses: float, weights: float, processes: int = 2) -> None:
    (history, policy), (other, others) = one, two
    assert {row["processes"] for row in other} == {processes}  # and not two that each train alone
    assert [row["texts"] for row in history] == [row["texts"] for row in other]
    for a, b in zip(history, other, strict=True):
        assert [a[name] for name in CURVES] == pytest.approx([b[name] for name in CURVES], abs=losses)
    for name, weight in policy.items():
        torch.testing.assert_close(weight, others[name], atol=weights, rtol=0)


def test_two_processes_give_the_single_process_curve_also_when_they_go_on_from_it(one_process, tmp_path):
    shutil.copytree(one_process / "stopped", tmp_path / "resumed")
    launch("ddp_cpu", tmp_path, 0, tmp_path / "two", tmp_path / "resumed")
    history, policy = result(one_process / "one")
    compare((history, policy), result(tmp_path / "two"), losses=1e-4, weights=1e-4)
    resumed = result(tmp_path / "resumed")
    assert [row["step"] for row in resumed[0]] == [4, 5]
    compare((history[4:], policy), resumed, losses=1e-4, weights=1e-4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("zero1", "zero2_offload", "zero3_offload")]


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp", *SLOW])
def test_dividing_gives_the_single_process_curve_whatever_wrote_the_checkpoint(one_process, tmp_path, name):
    """Uninterrupted; gone on with from a checkpoint of one process; and one process going on from it."""
    if name != "fsdp":
        pytest.importorskip("deepspeed")
    shutil.copytree(one_process / "stopped", tmp_path / "resumed")
    stopped = tmp_path / "stopped"
    launch(name, tmp_path, 0, tmp_path / "two", tmp_path / "resumed", f"{stopped}:4")
    history, policy = result(one_process / "one")
    compare((history, policy), result(tmp_path / "two"), losses=1e-3, weights=1e-3)
    compare((history[4:], policy), result(tmp_path / "resumed"), losses=1e-3, weights=1e-3)
    if name in ("zero3", "zero3_offload", "fsdp"):  # and not silently something that divides nothing
        assert result(tmp_path / "two")[0][-1]["held"] <= 0.51 * history[-1]["held"]
    assert (stopped / "checkpoints/step_000004/optimizer.safetensors").is_file()
    ppo_worker.train(start_accelerator(), stopped, stopped / "checkpoints")
    compare((history[4:], policy), result(stopped), losses=1e-3, weights=1e-3, processes=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp_cpu", "zero2", "zero3", "fsdp"])
def test_resuming_in_bf16_equals_the_uninterrupted_run(tmp_path, name):
    """Also where the models hold only bf16 roundings: most of what two steps change at this rate is lost in those."""
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
    launch(name, tmp_path, 0, "bf16", tmp_path / "whole", f"{tmp_path / 'killed'}:4")
    launch(name, tmp_path / "again", 0, "bf16", tmp_path / "killed")
    (whole, weights), (resumed, others) = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert [row["step"] for row in resumed] == [4, 5]
    assert [row["texts"] for row in whole[4:]] == [row["texts"] for row in resumed]
    for a, b in zip(whole[4:], resumed, strict=True):
        assert [a[curve] for curve in CURVES] == pytest.approx([b[curve] for curve in CURVES], abs=1e-6)
    assert all(torch.equal(weight, others[key]) for key, weight in weights.items())
    # and the test can see it: rounded to bf16 they would differ
    assert not all(torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


GATHERING = """
import torch
from rlhf_e2h.training.models import ModelShape, new_llama
from rlhf_e2h.parallel.processes import leave
from rlhf_e2h.parallel import fsdp
from rlhf_e2h.parallel.gathering import start_accelerator
accelerator = start_accelerator()
model, _ = new_llama(ModelShape(hidden=32, layers=2, intermediate=64, heads=2, max_positions=256), "procedural", 0)
before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
fsdp.shard(model, accelerator)
with fsdp.gathered(model):
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    if accelerator.is_main_process:  # and not the other one: nothing may wait for it
        model(input_ids=torch.tensor([[5, 6, 7]]))
assert all(2 * weight.to_local().numel() <= weight.numel() for weight in model.parameters())
model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
assert all(weight.grad.shape == before[name].shape for name, weight in model.named_parameters())
leave(0)
"""


@pytest.mark.slow
def test_fsdp_gathers_once_also_before_the_first_pass(tmp_path):
    """A sampler beside the model, vLLM for one, takes its weights before the model has computed anything."""
    (tmp_path / "worker.py").write_text(GATHERING)
    finish(start("fsdp", tmp_path, 0, worker=tmp_path / "worker.py"), logs=[tmp_path / "errors.log"])


@pytest.mark.slow
def test_two_nodes_on_one_machine(one_process, tmp_path):
    """Two launchers of one process each that meet on loopback."""
    port, nodes = free_port(), [tmp_path / "node0", tmp_path / "node1"]
    launchers = [
        start("ddp_cpu", node, port, tmp_path / "two", num_machines=2, machine_rank=rank, num_processes=2,
              main_process_ip="127.0.0.1")
        for rank, node in enumerate(nodes)
    ]  # fmt: skip
    finish(*launchers, logs=[node / "errors.log" for node in nodes])
    compare(result(one_process / "one"), result(tmp_path / "two"), losses=1e-4, weights=1e-4)


@pytest.mark.parametrize(
    ("second", "message"),
    [("raise SystemExit(3)", r"ended with \[None, 3\]"), ("time.sleep(600)", "not finished after 3 s")],
)
def test_a_process_that_fails_or_waits_for_ever_ends_the_wait_with_what_all_said(second, message, tmp_path):
    programs = ["print('I wait', file=sys.stderr, flush=True); time.sleep(600)", f"time.sleep(1); {second}"]
    logs = [tmp_path / "0", tmp_path / "1"]
    processes = [
        subprocess.Popen([sys.executable, "-c", f"import sys, time; {program}"], stderr=log.open("w"))
        for program, log in zip(programs, logs, strict=True)
    ]
    started = time.monotonic()
    with pytest.raises(AssertionError, match=f"(?s){message}.*I wait"):
        finish(*processes, logs=logs, timeout=3 if "600" in second else 60)
    assert time.monotonic() - started < 30
    assert None not in [process.returncode for process in processes]
