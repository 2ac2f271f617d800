"""Every command that the documentation shows: executed where it is cheap, else parsed by its real parser."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from commands import (
    ROOT,
    Block,
    blocks,
    check_line,
    command_lines,
    inline_commands,
    markdown_files,
    matches,
    run_block,
    shell_blocks,
)

FILES = markdown_files()
# stage file -> settings that make the quickstart a matter of seconds; the documentation's commands stay as written
TINY_PPO = {"steps": 2, "rollouts": 16, "num_mini_batches": 2, "max_new_tokens": 40}
TINY = {
    "1_prepare": {"train_per_level": [40, 40, 40, 12, 12], "test_per_level": [3, 3, 3, 6, 6], "validation_size": 10},
    "3_sample_easy": {"decoding.n": 4, "decoding.max_new_tokens": 48},
    "3_sample_full": {"decoding.n": 4, "decoding.max_new_tokens": 60, "limit": 68},
    "6_bank": {"decoding.n": 4, "decoding.max_new_tokens": 60},
    "7_dpo": {"decoding.n": 4, "decoding.max_new_tokens": 40, "problems": 30},
    "7_rest": {"decoding.n": 4, "decoding.max_new_tokens": 40, "problems": 30},
    "7_ppo": TINY_PPO,
    "7_ppo_dagger": TINY_PPO,
    "8_evaluate": {"max_new_tokens": 60, "draws": 8},
    "9_report": {"draws": 200},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_a_reader(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("E2H_DATA", "PRM800K", "METAMATH", "SHEPHERD"):
        monkeypatch.setenv(name, "somewhere")


@pytest.mark.parametrize("block", shell_blocks("parse"), ids=lambda block: block.where)
def test_commands_that_are_not_executed_parse(block: Block):
    lines = command_lines(block)
    assert lines, f"{block.where}: a shell fence without a command"
    for line in lines:
        check_line(line)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_in_running_text_parse(file: Path):
    for number, command in inline_commands(file):
        try:
            check_line(command)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{file.relative_to(ROOT)}:{number}: `{command}`: {error!r}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_other_fences_are_what_they_say(file: Path):
    """Python compiles, YAML and JSON parse; a fence with neither language nor command is text."""
    import json

    for block in blocks(file):
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "yaml":
            list(yaml.safe_load_all(block.text))
        elif block.language == "json":
            [json.loads(line) for line in block.text.splitlines() if line.strip()]


def _scratch(folder: Path) -> Path:
    """A copy of what a reader has: recipes are real files, the rest are links."""
    for name in (
        "launch",
        "docs",
        "benchmarks",
        "pyproject.toml",
        "Makefile",
        "README.md",
        "reward_models",
        "rlhf_e2h",
    ):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    return folder


def _environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": path, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120",
        "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "LANG": "C.UTF-8",
    }  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return _scratch(tmp_path_factory.mktemp("repository"))


@pytest.mark.slow  # in an empty folder, from a wheel, they run by default: test_docs_wheel.py
@pytest.mark.parametrize("block", [*shell_blocks("run"), *shell_blocks("clone")], ids=lambda block: block.where)
def test_cheap_commands_run(block: Block, scratch: Path):
    run_block(block, scratch, _environment(scratch), timeout=300)


def _tiny_quickstart(folder: Path) -> Path:
    """The quickstart with tiny settings in its files, run as the README says."""
    for stage, changes in TINY.items():
        file = folder / f"recipes/quickstart/{stage}.yaml"
        settings = yaml.safe_load(file.read_text())
        for key, value in changes.items():
            *parents, last = key.split(".")
            target = settings
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
    block = Block(ROOT / "README.md", 0, "bash", "slow", "e2h run recipes/quickstart")
    run_block(block, folder, _environment(folder), timeout=1800)
    return folder


@pytest.fixture(scope="module")
def finished_quickstart(tmp_path_factory):
    return _tiny_quickstart(_scratch(tmp_path_factory.mktemp("quickstart")))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("block", shell_blocks("slow"), ids=lambda block: block.where)
def test_commands_on_a_finished_quickstart_run(block: Block, finished_quickstart: Path):
    run_block(block, finished_quickstart, _environment(finished_quickstart), timeout=900)


@pytest.mark.parametrize(
    "line",
    [
        "e2h run recipes/quickstarts",
        "e2h run recipes/quickstart --onyl ppo",
        "e2h run recipes/quickstart --only pop",
        "e2h run recipes/quickstart ppo.kl_cof=0.1",
        "e2h ppo recipes/quickstart/8_evaluate.yaml",
        "e2h run recipes/quickstart --launch launch/zero9.yaml",
        "make quickstrat",
        "pip install '.[deepsped]'",
        "python benchmarks/nothing.py",
        "python -m reward_models scroe runs/prm x.jsonl",
        "accelerate launch --config_file launch/ddp.yaml -m rlhf_e2h ppo recipes/quickstart/7_dpo.yaml",
        "frobnicate --all",
    ],
)
def test_wrong_commands_are_found(line, capsys):
    with pytest.raises((AssertionError, ValueError, FileNotFoundError, SystemExit)):
        check_line(line)


def test_expected_output_is_compared():
    assert matches(["a  b", "...", "c"], "a b\nx\ny\nc\n")
    assert matches(["loss ... done"], "loss 0.3 done\n")
    assert not matches(["a", "c"], "a\nb\nc\n")
    assert not matches(["a b"], "a c\n")


def test_the_collector_sees_commands():
    """If nothing is collected, nothing is tested: the first screen of the README must be among what is checked."""
    lines = [line for block in shell_blocks("parse") for line in command_lines(block)]
    assert any(line.startswith("make quickstart") for line in lines) and len(lines) > 20
    assert len(shell_blocks("run")) >= 5 and len(shell_blocks("slow")) >= 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebook_runs(finished_quickstart: Path):
    """Every cell, on the run that the notebook names, in a kernel of its own."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs/notebooks/rerank.ipynb", as_version=4)
    where = {"metadata": {"path": str(finished_quickstart)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output
    )
    assert re.search(r"12 hard problems, 4 samples each", printed) and re.search(r"weighted vote +\d", printed)


def test_settings_of_other_libraries_have_a_counterpart_here():
    """The page for people who come from elsewhere names settings and metrics that exist."""
    from rlhf_e2h.rl.ppo_settings import PPOSettings
    from rlhf_e2h.stages.ppo import Config

    text = (ROOT / "docs/howto/from_other_libraries.md").read_text(encoding="utf-8")
    settings, _, metrics = text.partition("## Metrics")
    known = {*PPOSettings.__dataclass_fields__, *Config.__dataclass_fields__}
    named = re.findall(r"^\| (`.*?) \|", settings, re.MULTILINE)
    found = [name for cell in named for name in re.findall(r"`([a-z_]+)[`.:]", cell)]
    assert len(found) > 25 and not set(found) - known
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rlhf_e2h").rglob("*.py"))
    shown = re.findall(r"`([a-z]+/[a-z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", metrics, re.MULTILINE)))
    assert len(shown) > 10 and not [name for name in shown if name not in code]
