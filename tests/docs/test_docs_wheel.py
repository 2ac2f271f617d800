"""The wheel: built, put where no checkout is, and used; the documentation's commands run from it in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import Block, run_block, shell_blocks

ROOT = Path(__file__).parents[2]


def call(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=900, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is tracked, so that the build leaves nothing in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("rlhf_e2h", "reward_models", "recipes", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), ".")
    call(*pip, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_model_recipes_and_launch_files(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    assert "rlhf_e2h/assets/base/model.safetensors" in held and "rlhf_e2h/assets/programs/train.jsonl" in held
    recipes = [p.relative_to(ROOT).as_posix() for p in (ROOT / "recipes").rglob("*") if p.is_file()]
    launch = [p.relative_to(ROOT).as_posix() for p in (ROOT / "launch").rglob("*") if p.is_file()]
    assert {f"rlhf_e2h/{name}" for name in recipes + launch if "__pycache__" not in name} <= held
    assert not [name for name in held if name.startswith(("tests/", "recipes/", "benchmarks/"))]


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that we need come from this environment, our own only from the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel))
    call(*pip, cwd=folder)
    place = call(sys.executable, "-c", "import rlhf_e2h; print(rlhf_e2h.__file__)", cwd=folder, PYTHONPATH=str(folder))
    assert Path(place.strip()).is_relative_to(folder)
    return folder


@pytest.fixture(scope="module")
def empty(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with nothing in it but what the tutorial says to copy, and the environment of who has the wheel."""
    folder, home = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("home")
    environment = {
        "PATH": f"{site / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(site),
        "HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1",
        "LANG": "C.UTF-8",
    }  # fmt: skip
    call("e2h", "copy", "quickstart", "recipes/quickstart", cwd=folder, **environment)
    return folder, environment


@pytest.mark.parametrize("block", shell_blocks("run"), ids=lambda block: block.where)
def test_commands_of_the_documentation_run_without_a_clone(block: Block, empty: tuple[Path, dict[str, str]]) -> None:
    run_block(block, *empty, timeout=300)


def test_plan_without_a_clone(empty: tuple[Path, dict[str, str]]) -> None:
    """It needs the launch files, which are in the wheel."""
    folder, environment = empty
    plan = json.loads(call("e2h", "plan", "quickstart", "--json", cwd=folder, **environment))
    assert {stage["launch"] for stage in plan["stages"] if stage["kind"] == "sft"} == {"single"}


@pytest.mark.slow
def test_wheel_runs_where_no_checkout_is(site: Path, tmp_path: Path) -> None:
    e2h = (sys.executable, "-m", "rlhf_e2h")
    small = ("prepare.train_size=20", "prepare.validation_size=5", "prepare.test_size=5")
    for stage in ("prepare", "icl"):
        call(*e2h, "run", "quickstart", "--only", stage, *small, cwd=tmp_path, PYTHONPATH=str(site))
    (done,) = (tmp_path / "runs" / "quickstart" / "icl").glob("*/done.json")
    assert json.loads(done.read_text())["results"]["exemplars"] > 0
    listed = json.loads(call(*e2h, "doctor", "--offline", "--json", cwd=tmp_path, PYTHONPATH=str(site)))
    assert next(row for row in listed if row["what"] == "base model")["level"] == "ok"
