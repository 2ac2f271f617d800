"""Room on the disk: what is free, what a stage will take, and the sentence where the one is less than the other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from rlhf_e2h.data import firewall
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.publish import KINDS
from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.runner.store import Store

FULL, LOW = 4.0, 2.0  # bytes of a weight in float32, and in bfloat16, in which LoRA in bfloat16 leaves its base
CHECKPOINT = 12.0  # bytes of a trained weight: itself and Adam's two moments
CHARACTERS, ROW = 4, 150  # bytes of a token of text, and of the rest of a row of samples


def check_room(what: str, needed: float, folder: Path, free: float | None = None) -> None:
    """See that `needed` bytes can be written below `folder`, which need not be there yet.

    Args:
        free: bytes that may be written; what is free on its disk if not given.

    Raises:
        ConfigError: they cannot.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    free = shutil.disk_usage(place).free if free is None else free
    if needed > free:
        raise ConfigError(
            f"{what}: needs {size(needed)}, and {size(free)} are free on the disk of {folder}; make room, or give "
            "another folder"
        )


def size(value: float) -> str:
    """Bytes with a unit: 1.5 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.0f} kB"


class Room(NamedTuple):
    """Bytes that a stage has still to write."""

    kept: float  # its output
    meanwhile: float  # checkpoints, rounds and parts of samples, gone when it is complete


def room_for(store: Store, spec: StageSpec, seed: int) -> Room:
    """What a stage will write at most, as far as that can be told before it starts: weights and samples."""
    weights, samples = _weights(store.recipe, spec), _samples(store, spec, seed)
    meanwhile = weights.meanwhile + samples.meanwhile - _there(store, spec, seed)
    return Room(weights.kept + samples.kept, max(0.0, meanwhile))


def _there(store: Store, spec: StageSpec, seed: int) -> int:
    """Bytes that a killed stage has written already."""
    try:
        identity, _ = store.identity(spec, seed)
    except (ConfigError, FileNotFoundError):
        return 0  # what it reads is not finished, so it has not begun
    return sum(file.stat().st_size for file in store.folder(spec, identity).rglob("*") if file.is_file())


def _weights(recipe: Recipe, spec: StageSpec) -> Room:
    """Weights and checkpoints; adapters are taken for nothing beside them."""
    from reward_models.bf16 import in_bf16
    from rlhf_e2h.training.architecture import model_of

    config, settings = spec.config, getattr(spec.config, "training", spec.config)
    if spec.kind not in KINDS:
        return Room(0.0, 0.0)
    try:
        model = model_of(recipe, f"@{spec.name}")
    except (ValueError, KeyError, AttributeError):
        return Room(0.0, 0.0)  # of an unknown architecture; whether the model can be had is said elsewhere
    lora = settings.lora.r
    low = lora > 0 and in_bf16(settings.bf16)
    parameters = model.scorer_parameters if spec.kind == "reward" else model.parameters
    written = (LOW if low else FULL) * parameters
    meanwhile = written * getattr(config, "rounds", 0)
    if not lora and settings.save_steps > 0:
        trained = parameters + (model.scorer_parameters if spec.kind == "ppo" else 0)
        # PPO removes an old checkpoint before the next one where the disk cannot hold both
        count = settings.save_total_limit + (0 if spec.kind == "ppo" else 1)
        meanwhile += CHECKPOINT * trained * count
    return Room(written, meanwhile)


def _samples(store: Store, spec: StageSpec, seed: int) -> Room:
    """Text of samples, which is there twice while the parts of it are put together."""
    config = spec.config
    decoding = getattr(config, "decoding", None)
    count, tokens = (decoding.n, decoding.max_new_tokens) if decoding else (0, getattr(config, "max_new_tokens", 0))
    if spec.kind == "evaluate":
        count = len(config.policies)
    problems = _problems(store, spec, seed) if count and tokens else 0
    text = float(problems * count * (tokens * CHARACTERS + ROW))
    return Room(text, text)


def _problems(store: Store, spec: StageSpec, seed: int) -> int:
    """Problems that a stage samples solutions of; 0 where its prepare stage is not finished."""
    config = spec.config
    reference = str(getattr(config, "data", ""))
    if not reference.startswith("@"):
        return 0
    try:
        folder = store.finished(store.recipe.stages[reference[1:].partition("/")[0]], seed)
    except (ConfigError, FileNotFoundError):
        return 0
    split = "test" if spec.kind == "evaluate" else getattr(config, "split", "train")
    if folder is None or not (folder / firewall.problems_file(split)).is_file():
        return 0
    levels = getattr(config, "levels", None)
    found = sum(levels is None or row["level"] in levels for row in firewall.read_problems(folder, split))
    limits = [limit for name in ("limit", "problems") if (limit := getattr(config, name, None))]
    return min([found, *limits]) * getattr(config, "rounds", 1)
