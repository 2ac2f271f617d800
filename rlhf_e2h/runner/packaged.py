"""Recipes and launch files that ship with the package: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped(kind: str) -> Path:
    """The folder of the shipped `recipes` or `launch` files."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def names(kind: str) -> list[str]:
    """What ships: folders with a recipe.yaml, or launch files."""
    folder = shipped(kind)
    if kind == "recipes":
        return sorted(file.parent.name for file in folder.glob("*/recipe.yaml"))
    return sorted(file.name for file in folder.glob("*.*"))


def find(kind: str, given: str | Path) -> Path:
    """A path of the person's own if it exists, else the shipped one: "quickstart", "recipes/quickstart", "zero3.yaml".

    Returns `given` unchanged if neither exists; whoever opens it says so.
    """
    path = Path(given)
    if path.exists() or path.is_absolute():
        return path
    below = Path(*path.parts[1:]) if path.parts[:1] == (kind,) else path
    candidate = shipped(kind) / below
    return candidate if below.parts and ".." not in below.parts and candidate.exists() else path
