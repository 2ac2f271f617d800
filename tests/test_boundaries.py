"""Who may import whom: found in the source of every module, and in clean processes by listing what was loaded."""

import ast
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_e2h.runner.traits import STAGES

ROOT = Path(__file__).parents[1]
REWARD_FILES = sorted((ROOT / "reward_models").rglob("*.py"))
REWARD_MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in REWARD_FILES if not path.stem.startswith("__")
]
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}

_LOADED = """
import importlib, importlib.abc, json, sys

class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rlhf_e2h":
            raise ImportError("rlhf_e2h is absent here")

if {absent}:
    sys.meta_path.insert(0, Forbidden())
for module in {modules}:
    importlib.import_module(module)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded(modules, absent=False):
    """Top-level names in sys.modules after importing `modules` in a fresh process; `absent` hides rlhf_e2h."""
    script = _LOADED.format(modules=modules, absent=absent)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_reward_models_stand_alone():
    """Every module imports with rlhf_e2h absent, and none loads it when it is there."""
    assert {"reward_models.train", "reward_models.serving.server"} <= {*REWARD_MODULES}
    assert "rlhf_e2h" not in loaded(REWARD_MODULES, absent=True)


def test_pure_parts_load_no_framework():
    pure = ["records", "aggregate", "voting", "metrics", "contract", "readout", "step_text"]
    assert not loaded([f"reward_models.{name}" for name in pure]) & HEAVY


def test_no_experimental_or_unsafe_imports():
    """Textual, because what must not be imported must not even be written down."""
    forbidden = ("trl.experimental", "import pickle", "torch.load(", "trust_remote_code=True", "from rlhf_e2h", "import rlhf_e2h")  # fmt: skip  # noqa: E501
    for path in REWARD_FILES:
        found = [word for word in forbidden if word in path.read_text()]
        assert not found, f"{path.name} has {found}"


def _modules():
    """Source files of both packages by module name."""
    files = [path for package in ("rlhf_e2h", "reward_models") for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = _modules()


def _imports(path):
    """Our modules that a file imports, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return found & set(MODULES)


IMPORTS = {module: _imports(path) for module, path in MODULES.items()}


def _within(module, *packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _crossings(inside, outside):
    """'MODULE imports MODULE' for every import from the packages `inside` of one of `outside`."""
    return [
        f"{module} imports {found}"
        for module, imports in IMPORTS.items()
        if _within(module, *inside)
        for found in sorted(imports)
        if _within(found, *outside)
    ]


def _rooms(*names):
    return [f"rlhf_e2h.{name}" for name in names]


METHOD = _rooms("stages", "rl", "training", "samples", "data", "parallel", "runner", "stats", "report", "checker")
METHOD += _rooms("api", "encoding", "prompts", "records", "text_formats")


def test_the_method_imports_only_the_method():
    """No study, no tool and no sandbox of `coding`."""
    assert not _crossings(METHOD, _rooms("studies", "tools", "coding"))


def test_every_room_is_the_methods_or_one_of_those_beside_it():
    known = [*METHOD, *_rooms("studies", "tools", "coding", "cli", "__main__"), "reward_models"]
    assert [module for module in MODULES if not _within(module, *known)] == ["rlhf_e2h"]


def test_the_checker_and_reward_models_import_nothing_of_ours():
    """`e2h check` alone reads and writes files as reward_models does."""
    for package in ("rlhf_e2h.checker", "reward_models"):
        found = {module: imports for module, imports in IMPORTS.items() if _within(module, package)}
        assert len(found) > 30
        outside = {(module, name) for module in found for name in found[module] if not _within(name, package)}
        assert outside <= {("rlhf_e2h.checker.command", "reward_models.records")}


def test_no_stage_imports_another_and_only_the_command_line_imports_one():
    stages = [traits.module for traits in STAGES.values()]
    assert len(stages) > 26 and set(stages) <= set(MODULES)
    assert _crossings(MODULES, stages) == ["rlhf_e2h.cli imports rlhf_e2h.stages.report"]


def test_every_file_of_stages_is_a_stage():
    """What stages share lives below them."""
    found = {module for module in MODULES if module.startswith("rlhf_e2h.stages.")}
    assert found == {traits.module for traits in STAGES.values() if traits.module.startswith("rlhf_e2h.stages.")}


def test_no_import_cycles():
    """Not even through an import inside a function or for type checking."""
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def _reached(module):
    found, waiting = {module}, [module]
    while waiting:
        waiting += (new := IMPORTS[waiting.pop()] - found)
        found |= new
    return found


def test_few_files_lie_between_ppo_and_its_loss():
    between = {module for module in _reached("rlhf_e2h.stages.ppo") if "rlhf_e2h.rl.losses" in _reached(module)}
    assert {"rlhf_e2h.stages.ppo", "rlhf_e2h.rl.ppo", "rlhf_e2h.rl.losses"} <= between
    assert len(between) <= 12, sorted(between)


def test_the_pages_about_rooms_name_what_is_there():
    rooms = {path.name for path in (ROOT / "rlhf_e2h").iterdir() if (path / "__init__.py").is_file()}
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2].split("```")[1]
    assert set(re.findall(r"(?m)^  (\w+)/ ", tree)) == rooms
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {room for room in rooms if f"`{room}/`" in page} == rooms
    named = set(re.findall(r"`([\w/]+\.py)`", page))
    homes = ("", "rlhf_e2h", "reward_models")
    assert {file for file in named if not any((ROOT / home / file).is_file() for home in homes)} == set()


_WITHOUT_STUDIES = """
import importlib, sys
from rlhf_e2h.runner.traits import STAGES
assert "map" not in STAGES and "ppo" in STAGES
for module in {modules}:
    importlib.import_module(module)
print(importlib.import_module("rlhf_e2h").__file__)
"""


def test_the_method_imports_without_studies(tmp_path):
    """What a run of it gives there is in tests/stages/test_without_studies.py."""
    for package in ("rlhf_e2h", "reward_models"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.rmtree(tmp_path / "rlhf_e2h" / "studies")
    modules = [module for module in MODULES if _within(module, "rlhf_e2h.cli", "rlhf_e2h.tools", *METHOD)]
    script = _WITHOUT_STUDIES.format(modules=modules)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "rlhf_e2h" / "__init__.py")
