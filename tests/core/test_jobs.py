"""Stages at the same time: real processes, a real kill."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from reward_models.records import read_jsonl
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done


def _folders(runs):
    return {done.parent.relative_to(runs): read_done(done.parent)["files"] for done in runs.glob("*/*/done.json")}


def test_two_at_once_give_the_same_files_as_one_after_the_other(recipe, tmp_path, capsys):
    (recipe / "3_sample_more.yaml").write_text((recipe / "3_sample.yaml").read_text())
    outputs = []
    for jobs in (1, 2):
        runs = tmp_path / "runs"  # the same path, which in-context policies hold
        run_recipe(load_recipe(recipe, [f"runs={runs}", f"jobs={jobs}", "threads=1", "seeds=[0, 1]"]))
        assert "8 of 8 stages run" in capsys.readouterr().err
        outputs.append(_folders(runs))
        runs.rename(tmp_path / f"runs-{jobs}")
    assert len(outputs[0]) == 8 and outputs[0] == outputs[1]


def test_what_was_finished_is_not_run_again(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["runs=runs", "jobs=2", "threads=1"]  # relative to where this process is now, not where it began
    run_recipe(load_recipe(recipe, overrides), only="prepare")
    capsys.readouterr()
    run_recipe(load_recipe(recipe, overrides))
    said = capsys.readouterr().err
    assert "3 of 4 stages run" in said and said.count("finished before") == 1
    run_recipe(load_recipe(recipe, overrides))
    assert "nothing to do: all 4 stages are finished" in capsys.readouterr().err


def test_a_failed_stage_lets_the_others_that_run_finish(recipe, tmp_path):
    (recipe / "3_broken.yaml").write_text('stage: icl\npolicy: "@pretrain"\ndata: "@prepare"\nshots: 100\n')
    runs = tmp_path / "runs"
    with pytest.raises(ConfigError, match="100"):
        run_recipe(load_recipe(recipe, [f"runs={runs}", "jobs=2", "threads=1"]))
    finished = {path.parts[0] for path in _folders(runs)}
    assert {"prepare", "pretrain"} <= finished and "broken" not in finished


def test_a_stage_whose_process_is_killed_is_named(recipe, tmp_path, monkeypatch):
    (recipe / "3_broken.yaml").write_text((recipe / "3_sample.yaml").read_text().replace("n: 2", "n: 2000"))
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "rlhf_e2h", "run", str(recipe), f"runs={runs}", "jobs=2", "threads=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        os.kill(_process_of_stage(process, runs, "broken"), signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "broken: its process was killed (signal 9)" in said
    assert any(path.parts[0] == "sample" for path in _folders(runs))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(recipe, tmp_path, sent):
    (recipe / "3_sample.yaml").write_text((recipe / "3_sample.yaml").read_text().replace("n: 2", "n: 2000"))
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "rlhf_e2h", "run", str(recipe), f"runs={runs}", "jobs=2", "threads=1"]
    # a test run that was started in the background passes on that Ctrl-C is ignored
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed) as process:
        child = _process_of_stage(process, runs, "sample")
        process.send_signal(sent)
        process.wait(timeout=60)
    assert process.returncode == (-9 if sent == signal.SIGKILL else 130)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    (recipe / "3_sample.yaml").write_text((recipe / "3_sample.yaml").read_text().replace("n: 2000", "n: 2"))
    run_recipe(load_recipe(recipe, [f"runs={runs}", "jobs=2", "threads=1"]))  # the folder is free
    assert len(read_jsonl(next(runs.glob("sample/*/samples.jsonl")))) == 20


def _process_of_stage(parent, runs, stage, seconds=120):
    """The process that has a file of the stage open: found once its metrics file is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and parent.poll() is None:
        for metrics in runs.glob(f"{stage}/*/metrics.jsonl"):
            for entry in Path("/proc").glob("[0-9]*/fd/*"):
                try:
                    if entry.readlink() == metrics and (pid := int(entry.parts[2])) != os.getpid():
                        return pid
                except OSError:
                    continue
        time.sleep(0.05)
    raise AssertionError(f"{stage} never ran; exit code {parent.poll()}")
