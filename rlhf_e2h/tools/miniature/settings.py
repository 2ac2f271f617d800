"""Which settings of a recipe become small, given as the same overrides that a person could type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_e2h.data.files import iter_rows
from rlhf_e2h.runner.config import ConfigError, substitute
from rlhf_e2h.runner.recipe import Recipe, load_recipe
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.tools.miniature.data import ANSWERS, tiny_data
from rlhf_e2h.tools.miniature.model import make_tiny

SWITCH = "model=tiny"
VERSION = 1  # of what `make_tiny` makes

# Variables that a recipe may have; each kind of stage says its own small settings (`traits.Traits.tiny`).
VARIABLES: dict[str, Any] = {
    "validation_problems": 5,
    "rm_samples": 8,
    "bank": 4,
    "new_tokens": 32,
    "prompts": 8,
    "ppo_steps": 2,
    "rollouts": 16,
    "batch": 8,
    "micro_batch": 4,
    "bf16": False,
}


def tiny_overrides(folder: str | Path, overrides: Sequence[str]) -> list[str]:
    """The overrides that make a recipe tiny, followed by the person's own, which win.

    Makes the tiny model and data in `RUNS/inputs`; a second call makes the same files again.

    Raises:
        ConfigError: the recipe has no large model to replace.
        FileNotFoundError: real MATH is not where the recipe's `math` says.
    """
    own = [text for text in overrides if text != SWITCH]
    recipe = load_recipe(folder, own)
    base = recipe.settings.variables.get("base")
    if not isinstance(base, str) or base.startswith(("@", "asset:")):
        raise ConfigError(f"model=tiny: the model of {recipe.settings.name} is tiny already; run it without")
    runs = Path(recipe.settings.runs or f"runs/{recipe.settings.name}-tiny")
    small: dict[str, Any] = {"runs": runs}
    if "apps" in recipe.settings.variables:
        small |= _programs(runs.resolve() / "inputs", base)
    else:
        small |= _math(recipe, runs.resolve() / "inputs", base)
    small = {name: value for name, value in VARIABLES.items() if name in recipe.settings.variables} | small
    for name, spec in recipe.stages.items():
        small |= {f"{name}.{key}": value for key, value in spec.traits.tiny.items()}
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in small.items()] + own


def _math(recipe: Recipe, inputs: Path, base: str) -> dict[str, Path]:
    variables = substitute(recipe.settings.variables, {}, str(recipe.folder / "recipe.yaml"))
    data, problems = tiny_data(Path(variables["math"]).expanduser(), inputs)
    model = _model(base, problems, ANSWERS, inputs)
    places = {
        "base": model,
        "math": data,
        "prm800k": data,
        "metamath": data / "metamath.jsonl",
        "shepherd": data / "shepherd.jsonl",
    }
    return {name: place for name, place in places.items() if name in variables}


def _programs(inputs: Path, base: str) -> dict[str, Any]:
    """The problems of our own that ship with the package; the model guesses among the programs of the easy ones."""
    folder = ASSETS / "programs"
    rows = [row.fields for side in ("train", "test") for row in iter_rows(folder / f"{side}.jsonl")]
    easy = [row for row in rows if row["difficulty"] == "introductory"]
    endings = sorted({json.loads(row["solutions"])[0] for row in easy})
    model = _model(base, [row["question"] for row in rows], endings, inputs)
    return {"base": model, "apps": folder, "test_counts": [4, 0, 0, 2, 2], "new_tokens": 64}


def _model(base: str, problems: Sequence[str], endings: Sequence[str], inputs: Path) -> Path:
    """Made once a run folder: other weights, even by rounding, would make every finished stage run again."""
    made = inputs / "model.json"
    about = {"base": base, "problems": list(problems), "endings": list(endings), "version": VERSION}
    inputs.mkdir(parents=True, exist_ok=True)
    if not made.is_file() or json.loads(made.read_text(encoding="utf-8")) != about:
        make_tiny(base, problems, endings, inputs / "model")
        made.write_text(json.dumps(about), encoding="utf-8")
    return inputs / "model"
