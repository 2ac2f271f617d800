"""The container file and its pinned versions against this environment; nothing is built."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILE = (ROOT / "launch" / "Containerfile").read_text(encoding="utf-8")
PINS = {
    requirement.name: str(requirement.specifier).removeprefix("==")
    for requirement in map(Requirement, re.findall(r"(?m)^[^#\s].*$", (ROOT / "launch/constraints.txt").read_text()))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_dependency_is_pinned_within_its_range() -> None:
    extras = re.search(r"/src\[([\w,]+)\]", FILE)
    assert extras
    needed = [*PROJECT["dependencies"], *(t for e in extras[1].split(",") for t in PROJECT["optional-dependencies"][e])]
    for requirement in map(Requirement, needed):
        assert requirement.name in PINS, f"{requirement.name} has no line in launch/constraints.txt"
        assert requirement.specifier.contains(PINS[requirement.name]), requirement
    # and the versions of the extra `pinned`, which the figures in the documentation were made with
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["pinned"]):
        assert requirement.specifier.contains(PINS[requirement.name]), requirement


def test_pins_are_what_runs_here() -> None:
    """Of what the extra `pinned` installs; other packages may be newer here than in the container."""
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["pinned"]):
        installed = metadata.version(requirement.name).partition("+")[0]
        assert installed == PINS[requirement.name], f"{requirement.name} {installed} runs here"


def test_container_file_names_what_exists() -> None:
    copied = [name for line in re.findall(r"(?m)^COPY (.+) \S+$", FILE) for name in line.split()]
    assert {"rlhf_e2h", "reward_models", "recipes", "launch"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"(?m)^ARG CUDA=\d+\.\d+\.\d+$", FILE) and ":latest" not in FILE
    assert re.search(r'(?m)^ENTRYPOINT \["e2h"\]$', FILE) and "e2h" in PROJECT["scripts"]
    for recipe in re.findall(r"rlhf_e2h run ([\w.-]+)", FILE):
        assert (ROOT / "recipes" / recipe / "recipe.yaml").is_file()
