"""Who may import whom, checked in clean processes by listing what was loaded."""

import json
import subprocess
import sys
from pathlib import Path

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
