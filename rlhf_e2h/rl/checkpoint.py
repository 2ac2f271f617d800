"""Exact checkpoints of a training loop without pickle: safetensors for tensors, JSON for the rest.

A checkpoint is a folder `step_000010`. It is written under a name that starts with a dot, forced to disk and renamed,
so a folder with the right name is complete; sizes are checked again before it is used. Older checkpoints go only
after a newer one stands, unless the disk cannot hold both.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_e2h.training.checkpoints import is_full, no_room

log = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


def save_checkpoint(
    root: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int = 1
) -> Path:
    """Write `tensors` (one safetensors file a group) and `state` (JSON) as the checkpoint of `step`; leave `keep` of
    them. Where the disk has no room for one more, the oldest go first, the last one too.

    Raises:
        ConfigError: the disk is full; checkpoints that exist are untouched.
    """
    final, partial = root / f"step_{step:06d}", root / f".step_{step:06d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _make_room(root, sum(one.numel() * one.element_size() for named in tensors.values() for one in named.values()))
    try:
        sizes = {}
        for group, named in tensors.items():
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, partial / group)
            sizes[group] = _force_to_disk(partial / group)
        (partial / "state.json").write_text(json.dumps({"step": step, "files": sizes, **state}))
        _force_to_disk(partial / "state.json")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_full(error):
            raise no_room(root, error) from error
        raise
    for old in sorted(root.glob("step_*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _make_room(root: Path, size: int) -> None:
    """Remove old checkpoints, the oldest first, until `size` bytes more can be written, or none is left."""
    for old in sorted(root.glob("step_*")):
        if shutil.disk_usage(root).free >= size:
            return
        log.warning(
            "%s is removed before the next checkpoint is written, for which the disk has no room beside it; a kill "
            "meanwhile would lose it",
            old,
        )
        shutil.rmtree(old, ignore_errors=True)


def _force_to_disk(path: Path) -> int:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def last_checkpoint(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint below `root` and its state; damaged ones are skipped with a warning."""
    for folder in sorted(root.glob("step_*"), reverse=True) if root.is_dir() else []:
        try:
            state = json.loads((folder / "state.json").read_text())
            whole = all((folder / name).stat().st_size == size for name, size in state["files"].items())
        except (OSError, ValueError, KeyError):
            whole = False
        if whole:
            return folder, state
        log.warning("%s is not complete and is skipped", folder)
    return None


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, by name; shared ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors named `parameter:slot`."""
    return {
        f"{name}:{slot}": torch.as_tensor(value)
        for name, parameter in trainable(model).items()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the trained weights back, exactly.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    parameters = trainable(model)
    with safe_open(folder / WEIGHTS, "pt") as weights:
        if different := sorted(set(weights.keys()) ^ parameters.keys()):
            raise ValueError(f"{folder}: weights of another model ({different[0]}); remove the folder to start again")
        for name, parameter in parameters.items():
            if not parameter.is_meta:  # else rank 0 will send it
                parameter.copy_(weights.get_tensor(name))


def load_moments(folder: Path) -> dict[str, Tensor]:
    """The optimiser's state of a checkpoint as flat tensors; empty in one of an older version made under DeepSpeed."""
    file = folder / OPTIMIZER
    if not file.is_file():
        log.warning("%s has no optimiser state: Adam's moments start again from zero", folder)
        return {}
    return load_file(file)


def load_optimizer(moments: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimiser's state back, exactly."""
    parameters = trainable(model)
    for key, value in moments.items():
        name, slot = key.rsplit(":", 1)
        # a fused AdamW, which is ours, keeps its step counter beside the parameter too
        optimizer.state[parameters[name]][slot] = value.to(parameters[name].device)
