"""SFT, reward model, DPO and ReST-EM started by `e2h run --launch` in two CPU processes, against one process."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from launching import FSDP_ON_CPU, STAGES, cpu_launch, e2h, environment, must, write_recipe
from safetensors.torch import load_file

from reward_models.records import read_jsonl
from rlhf_e2h.parallel.processes import check_together
from rlhf_e2h.runner import pipeline
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.environment import forget_accelerate_state
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A recipe, and its stages in one process in `one`."""
    folder = tmp_path_factory.mktemp("stages")
    recipe = write_recipe(folder)
    run(recipe, folder / "one", "prepare")
    return folder


def run(recipe, runs, stage, *overrides):
    run_recipe(load_recipe(recipe, [f"runs={runs}", *overrides]), only=stage)


def finished(runs, stage):
    """(losses by step, completion record, weights)"""
    folder = next(runs.glob(f"{stage}/*/done.json")).parent
    losses = {row["step"]: row["train/loss"] for row in read_jsonl(folder / "metrics.jsonl") if "train/loss" in row}
    return losses, json.loads((folder / "done.json").read_text()), load_file(folder / "model.safetensors")


def compared(place, tmp_path, stage, launch, needs=(), tolerance=1e-3, changes=(), weights_within=5e-3):
    """`changes`: settings of the stage; runs with them are kept apart."""
    recipe, one = place / "recipe", place / "_".join(["one", *changes])
    for earlier in ("prepare", *needs):
        run(recipe, one, earlier)  # finished ones are not run again
    run(recipe, one, stage, *changes)
    two = tmp_path / "two"
    for earlier in ("prepare", *needs):
        run(recipe, two, earlier)
    more = FSDP_ON_CPU if launch == "fsdp" else {}
    task = ["run", recipe, f"runs={two}", *changes, "--only", stage, "--launch", cpu_launch(launch, tmp_path)]
    must(e2h(*task, **more))
    (losses, done, weights), (others, other, found) = finished(one, stage), finished(two, stage)
    assert losses and losses.keys() == others.keys()  # and each step once: one process reports
    assert list(losses.values()) == pytest.approx(list(others.values()), abs=tolerance)
    assert weights.keys() == found.keys()
    assert all(weights[name].allclose(found[name], atol=weights_within) for name in weights)
    return done, other


def test_sft_in_two_processes_is_sft_in_one(place, tmp_path):
    """36 solutions in batches of 8: the last batch is uneven, and one process has less to do."""
    done, other = compared(place, tmp_path, "sft", "ddp_cpu", tolerance=2e-2)
    assert other["results"]["solutions"] == done["results"]["solutions"] == 36
    assert done["tokens"] > 0 and done["flops"] > 6 * done["tokens"] * 10_000  # more than that many weights are trained
    assert other["tokens"] == pytest.approx(done["tokens"], rel=0.15)  # the shorter one repeats examples


STAGES_IN_TURN = """
import sys
import yaml
from rlhf_e2h.cli import main
from rlhf_e2h.parallel.processes import leave
files, overrides = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
for file in files:
    code = main([yaml.safe_load(open(file))["stage"], file, "--locked", *overrides, "seed=0"])
    if code:
        break
leave(code)
"""


def test_samples_scores_and_evaluation_of_two_processes_are_those_of_one(place, tmp_path):
    """13 problems of three solutions each, in blocks of 5: no block, and not the bank, divides by two."""
    for stage in ("prepare", "sft", "prm"):
        run(place / "recipe", place / "one", stage)
    stages, small = {"bank": "4_bank", "rerank": "5_rerank", "evaluate": "6_evaluate"}, "bank.chunk=5"
    for runs in ("one", "two"):
        shutil.copytree(place / "one", tmp_path / runs)
    for stage in stages:
        run(place / "recipe", tmp_path / "one", stage, small)
    files = [f"{place / 'recipe' / file}.yaml" for file in stages.values()]
    (tmp_path / "worker.py").write_text(STAGES_IN_TURN)
    file = cpu_launch("ddp_cpu", tmp_path)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += [str(tmp_path / "worker.py"), *files, "--", f"runs={tmp_path / 'two'}", small]
    must(subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300))
    found = {}
    for file in ("bank/*/samples.jsonl", "rerank/*/scored_prm.jsonl", "evaluate/*/outcomes.jsonl"):
        found[file], two = (read_jsonl(next(tmp_path.glob(f"{runs}/{file}"))) for runs in ("one", "two"))
        assert found[file] == two
    assert [len(rows) for rows in found.values()] == [39, 39, 20]  # 10 test problems, two policies
    for stage in ("bank", "evaluate"):
        costs = [json.loads(next(tmp_path.glob(f"{runs}/{stage}/*/done.json")).read_text()) for runs in ("one", "two")]
        assert costs[0]["tokens"] == costs[1]["tokens"] > 39 and costs[0]["flops"] == costs[1]["flops"] > 0
    policies = [
        json.loads(next(tmp_path.glob(f"{runs}/evaluate/*/policies.json")).read_text()) for runs in ("one", "two")
    ]
    assert policies[0] == policies[1] and policies[0]["policies"]["sft"]["5"]["reward"] > 0
    assert len({row["score"] for row in found["rerank/*/scored_prm.jsonl"]}) > 30


@pytest.mark.slow
def test_sft_in_two_processes_is_bit_for_bit_that_in_one_where_batches_divide(place, tmp_path):
    """36 solutions in batches of 12: nothing is repeated, what differs in the test above is the uneven batch."""
    found = []
    for runs, launch in (("one", []), ("two", ["--launch", cpu_launch("ddp_cpu", tmp_path)])):
        task = [place / "recipe", f"runs={tmp_path / runs}"]
        batch = ["sft.training.batch_size=12", "sft.training.per_device_train_batch_size=6"]
        must(e2h("run", *task, "--only", "prepare"))
        must(e2h("run", *task, *batch, "--only", "sft", *launch))
        found.append(finished(tmp_path / runs, "sft"))
    (_, done, weights), (_, other, others) = found
    assert done["results"]["loss"] == pytest.approx(other["results"]["loss"], abs=1e-6)  # the mean of both processes
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_sft_under_deepspeed_is_sft_in_one_process(place, tmp_path, launch):
    pytest.importorskip("deepspeed")
    compared(place, tmp_path, "sft", launch, tolerance=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3", "fsdp"])
def test_sft_in_bf16_in_two_processes_is_that_in_one(place, tmp_path, launch):
    """DeepSpeed computes in bf16 where others use autocast; 10 steps at a rate of 1e-3 move weights by 1e-2 at most."""
    pytest.importorskip("deepspeed")
    compared(place, tmp_path, "sft", launch, (), 3e-2, ["sft.training.bf16=true"], 5e-3)
    weights = finished(tmp_path / "two", "sft")[2]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert not any(torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["zero3", "fsdp"])
def test_snapshots_are_whole_models_where_weights_are_sharded(place, tmp_path, launch):
    pytest.importorskip("deepspeed")
    often, found = "sft.snapshots=4", []
    more = FSDP_ON_CPU if launch == "fsdp" else {}
    for runs, launched in (("one", []), ("two", ["--launch", cpu_launch(launch, tmp_path)])):
        for stage in ("prepare", "sft"):
            ask = ["run", place / "recipe", f"runs={tmp_path / runs}", often, "--only", stage]
            must(e2h(*ask, *(launched if stage == "sft" else []), **more))
        folders = sorted((tmp_path / runs).glob("sft/*/snapshots/step_*"))
        found.append({folder.name: load_file(folder / "model.safetensors") for folder in folders})
    one, two = found
    assert list(one) == list(two) == ["step_000000", "step_000004", "step_000008", "step_000010"]
    for step, weights in one.items():
        assert weights.keys() == two[step].keys()
        assert all(weights[name].allclose(two[step][name], atol=5e-3) for name in weights), step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "needs", "tolerance"),
    [("sft", (), 2e-2), ("prm", (), 2e-2), ("dpo", ("sft", "prm"), 5e-2), ("rest", ("sft", "prm"), 5e-2)],
)
def test_trainers_under_fsdp_train_what_one_process_trains(place, tmp_path, stage, needs, tolerance):
    """Accelerate's FSDP, made to run on CPUs; a stage that asks for it and does not get it stops, so it did run."""
    compared(place, tmp_path, stage, "fsdp", needs, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3"])
def test_a_reward_model_in_two_processes_is_one_in_one(place, tmp_path, launch):
    pytest.importorskip("deepspeed")
    compared(place, tmp_path, "prm", launch, tolerance=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3"])
@pytest.mark.parametrize(("stage", "record"), [("dpo", "pairs"), ("rest", "kept")])
def test_two_rounds_in_two_processes_are_those_of_one(place, tmp_path, stage, record, launch):
    """Each process samples for its share of the problems: the first round's solutions are those of one process."""
    pytest.importorskip("deepspeed")
    compared(place, tmp_path, stage, launch, needs=("sft", "prm"), tolerance=5e-2)
    one, two = (
        read_jsonl(next(runs.glob(f"{stage}/*/{record}_0.jsonl"))) for runs in (place / "one", tmp_path / "two")
    )
    texts = ("chosen", "rejected") if stage == "dpo" else ("text",)
    assert one and [[row[name] for name in texts] for row in one] == [[row[name] for name in texts] for row in two]


@pytest.mark.slow
@pytest.mark.parametrize("bf16", ["false", "true"])
def test_the_whole_ppo_stage_runs_in_two_processes(place, tmp_path, bf16):
    for stage in ("prepare", "prm"):
        run(place / "recipe", tmp_path / "runs", stage)
    launch = cpu_launch("zero2", tmp_path)
    task = [place / "recipe", f"runs={tmp_path / 'runs'}", f"ppo.bf16={bf16}"]
    must(e2h("run", *task, "--only", "ppo", "--launch", launch))
    folder = next((tmp_path / "runs").glob("ppo/*/done.json")).parent
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [0, 1, 2]


def kept(runs):
    """(metrics of each step, weights) of the ppo stage"""
    folder = next(runs.glob("ppo/*/done.json")).parent
    return read_jsonl(folder / "metrics.jsonl"), load_file(folder / "model.safetensors")


ADAPTED = ["ppo.eval_steps=1", "ppo.keep=best", "ppo.lora.r=4", "ppo.learning_rate=1e-2"]
SHARED = [*ADAPTED, "ppo.value_init=policy", "ppo.share_base=true"]
QLORA = [*ADAPTED, "ppo.load_in_4bit=true"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "settings"),
    [
        ("zero3", ADAPTED),
        ("fsdp", ADAPTED),
        ("ddp_cpu", SHARED),
        ("zero2", SHARED),
        ("zero3", SHARED),
        ("ddp_cpu", QLORA),
    ],
    ids=["zero3", "fsdp", "shared-ddp_cpu", "shared-zero2", "shared-zero3", "qlora-ddp_cpu"],
)
def test_ppo_with_adapters_evaluates_and_keeps_what_one_process_keeps(place, tmp_path, launch, settings):
    """Evaluation, the best weights, adapters and the reference without them, where nobody holds the whole policy."""
    if launch.startswith("zero"):
        pytest.importorskip("deepspeed")
    if settings is QLORA:
        pytest.importorskip("bitsandbytes")
    for stage in ("prepare", "prm"):
        run(place / "recipe", place / "one", stage)
    for runs in ("one", "two"):
        shutil.copytree(place / "one", tmp_path / runs)
    run(place / "recipe", tmp_path / "one", "ppo", *settings)
    launcher = ["--launch", cpu_launch(launch, tmp_path)]
    must(e2h("run", place / "recipe", f"runs={tmp_path / 'two'}", *settings, "--only", "ppo", *launcher))
    (steps, weights), (others, other) = (kept(tmp_path / runs) for runs in ("one", "two"))
    compared_names = ["objective/kl", *(name for name in steps[0] if name.startswith("eval/"))]
    assert {"eval/accuracy_easy", "eval/rm_level_1"} <= set(compared_names)
    for one, two in zip(steps, others, strict=True):
        assert [one[name] for name in compared_names] == pytest.approx([two[name] for name in compared_names], abs=1e-4)
    assert abs(steps[-1]["objective/kl"]) > 1e-4  # a sampled mean, of either sign: the reference has no adapters
    base = load_file(place / "base/model.safetensors")
    assert weights.keys() == other.keys() == base.keys()
    assert all(weights[name].allclose(other[name], atol=1e-3) for name in weights)
    assert max(float((weights[name] - base[name]).abs().max()) for name in base) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3"])
def test_ppo_on_one_base_in_two_processes_is_that_in_one(tmp_path, launch):
    """Policy, value model, reference and reward model as adapters, layers computed again in the backward pass."""
    lora = {"lora": {"r": 2}}
    prm = {
        "lora": {"r": 2},
        "batch_size": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 4,
    }
    ppo = {**STAGES["4_ppo"], "policy": "@sft", **lora, "share_base": True, "gradient_checkpointing": True}
    sft = {"training": {**STAGES["2_sft"]["training"], **lora}}
    recipe = write_recipe(tmp_path, sft=sft, prm={"training": prm}, ppo=ppo)
    rows = []
    for runs, launched in (("one", ()), ("two", ("--launch", cpu_launch(launch, tmp_path)))):
        for stage in ("prepare", "sft", "prm"):
            run(recipe, tmp_path / runs, stage)
        done = e2h("run", recipe, f"runs={tmp_path / runs}", "--only", "ppo", *launched)
        must(done)
        assert "beside the shared base" not in done.stderr
        rows.append(read_jsonl(next((tmp_path / runs).glob("ppo/*/metrics.jsonl"))))
    assert [row["step"] for row in rows[1]] == [0, 1, 2]
    for name in ("loss/policy_avg", "loss/value_avg", "objective/kl", "step_rewards/score_mean", "critic/value_mean"):
        assert [row[name] for row in rows[1]] == pytest.approx([row[name] for row in rows[0]], abs=1e-3), name
    assert abs(rows[0][0]["critic/value_mean"]) > 1e-2  # as the reward model


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp_cpu", "zero2", "zero3", "fsdp"])
def test_grpo_runs_in_two_processes(place, tmp_path, launch):
    """8 problems x 4 completions x 2 epochs: 8 updates of 8. What is sampled depends on the number of processes."""
    pytest.importorskip("deepspeed")
    for stage in ("prepare", "prm"):
        run(place / "recipe", tmp_path / "runs", stage)
    more = FSDP_ON_CPU if launch == "fsdp" else {}
    task = [place / "recipe", f"runs={tmp_path / 'runs'}", "--only", "grpo"]
    must(e2h("run", *task, "--launch", cpu_launch(launch, tmp_path), **more))
    folder = next((tmp_path / "runs").glob("grpo/*/done.json")).parent
    steps = [row["step"] for row in read_jsonl(folder / "metrics.jsonl") if "train/reward" in row]
    assert steps == list(range(1, 9))  # one process reports
    before, after = (load_file(path / "model.safetensors") for path in (place / "base", folder))
    assert before.keys() == after.keys()
    assert all(before[name].shape == after[name].shape for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_launch_on_one_machine_takes_a_free_port_unless_its_file_names_one(tmp_path, monkeypatch):
    commands = []

    def record(command, check):
        commands.append(" ".join(command))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(pipeline.subprocess, "run", record)
    store = SimpleNamespace(recipe=SimpleNamespace(overrides=[]))
    spec = SimpleNamespace(name="sft", kind="sft", file="2_sft.yaml")
    for changes in ({}, {"main_process_port": 1234}, {"num_machines": 2}):
        file = tmp_path / f"{len(commands)}.yaml"
        file.write_text(yaml.safe_dump({"distributed_type": "MULTI_CPU", **changes}))
        pipeline._launch(store, spec, 0, str(file))
    assert ["--main_process_port 0 -m rlhf_e2h sft" in command for command in commands] == [True, False, False]


LEAVING = """
import atexit
from rlhf_e2h.parallel.processes import leave
class Late:
    def __del__(self): print("taken apart")
late = Late()
atexit.register(print, "told")
print("done", end=" ")
leave(3)
"""


@pytest.mark.parametrize(("processes", "said"), [("1", "done told\ntaken apart\n"), ("2", "done told\n")])
def test_one_of_many_processes_ends_before_python_is_taken_apart(processes, said):
    """A thread of gloo that wants Python's lock after that would abort it; what asked to be told of the end is told."""
    command = [sys.executable, "-c", LEAVING]
    done = subprocess.run(command, env=environment(WORLD_SIZE=processes), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, said, "")


def test_processes_that_would_each_train_alone_are_stopped(monkeypatch):
    forget_accelerate_state()
    accelerator = Accelerator(cpu=True)  # made alone, whatever the launcher said
    check_together(accelerator)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, but each sees 1"):
        check_together(accelerator)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="FSDP needs GPUs"):
        check_together(accelerator)
