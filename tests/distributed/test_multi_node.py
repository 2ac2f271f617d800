"""The multi-node scripts with two "nodes" on one machine: two launchers that meet on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, cpu_launch, e2h, environment, free_port, must, write_recipe
from safetensors.torch import load_file

from rlhf_e2h.runner.run_files import read_done

# a remote shell that stays here, an `srun` that starts one task a node, and `scontrol` with its only answer
LOCAL = {
    "rsh": 'shift; exec bash -c "$1"',
    "srun": (
        'shift\npids=""\nfor node in 0 1; do SLURM_NODEID=$node SLURM_NNODES=2 "$@" & pids="$pids $!"; done\n'
        "for pid in $pids; do wait $pid || exit 1; done"
    ),
    "scontrol": "echo 127.0.0.1",
}


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    # not a link: a virtual environment's interpreter finds its packages by its own path
    for name, text in (LOCAL | {"python": f'exec {sys.executable} "$@"'}).items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def start(script: str, tools: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess:
    paths = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(ROOT / "launch" / script), *map(str, arguments)],
        env=environment(PATH=paths, **more), cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("script", ["hostfile.sh", "slurm.sh"])
def test_two_nodes_train_what_one_process_trains(script, tools, tmp_path):
    recipe = write_recipe(tmp_path)
    even = [
        "sft.training.batch_size=12",
        "sft.training.per_device_train_batch_size=6",
    ]  # of 36: no process repeats an example
    for runs in ("one", "two"):
        must(e2h("run", recipe, f"runs={tmp_path / runs}", "--only", "prepare"))
    must(e2h("run", recipe, f"runs={tmp_path / 'one'}", "--only", "sft", *even))
    task = [recipe / "2_sft.yaml", "sft", cpu_launch("ddp_cpu", tmp_path), f"runs={tmp_path / 'two'}", *even]
    if script == "hostfile.sh":
        (tmp_path / "hosts").write_text("# two nodes\n127.0.0.1 slots=1\n127.0.0.1 slots=1\n")
        more = {"E2H_RSH": "rsh", "E2H_PYTHON": sys.executable, "E2H_PORT": str(free_port())}
        must(start(script, tools, tmp_path / "hosts", *task, **more))
    else:
        more = {"SLURM_JOB_NODELIST": "n[0-1]", "SLURM_JOB_ID": str(os.getpid()), "SLURM_GPUS_ON_NODE": "1"}
        must(start(script, tools, *task, **more))
    folders = [next((tmp_path / runs).glob("sft/*/done.json")).parent for runs in ("one", "two")]
    losses = [read_done(folder)["results"]["loss"] for folder in folders]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(one[name].allclose(two[name], atol=1e-6) for name in one)


@pytest.mark.parametrize(
    ("hosts", "message"),
    [("a slots=2\nb slots=4\n", "b has 4 slots"), ("# nobody\n", "no host in it"), (None, "cannot be read")],
)
def test_a_wrong_hostfile_is_one_sentence(hosts, message, tools, tmp_path):
    if hosts is not None:
        (tmp_path / "hosts").write_text(hosts)
    done = start("hostfile.sh", tools, tmp_path / "hosts", "file.yaml", "sft", "launch.yaml", E2H_RSH="rsh")
    assert done.returncode == 2
    assert message in done.stderr
