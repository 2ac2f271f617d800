"""The LoRA adapter of a model, kept beside its merged weights, and a fingerprint of the base that it was trained on.

Everything reads the merged weights. The adapter is for those who want to hold one base for several models: on a base
with the same fingerprint it makes the merged model again, to rounding. `MODEL/adapter/` is what PEFT writes (so PEFT
opens it too) and `base.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from reward_models.model import HEAD_NAMES
from reward_models.precision import restore_frozen, stored_half

FOLDER = "adapter"
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
SAMPLE = 64  # values of each tensor in a fingerprint; training or merging changes nearly all of a tensor's
_LORA = re.compile(r"\.lora_[AB]\.weight$")
# what would have to be carried over beside rank, alpha and the two matrices
_PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}


class CannotShareError(ValueError):
    """Why a model cannot be made from an adapter on a shared base; its merged weights still can be used."""


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter folder that has been read, weights on the CPU."""

    folder: Path
    base: str  # folder or hub id that it was trained on
    fingerprint: str  # of that base
    rank: int
    alpha: float
    targets: list[str]  # names of the layers that it adapts
    weights: dict[str, torch.Tensor]  # LoRA matrices, under PEFT's names
    head: dict[str, torch.Tensor]  # weight (1, H) and maybe bias (1,) of a reward model's head; empty in a policy's

    def check_base(self, found: str, name: str) -> None:
        """
        Raises:
            CannotShareError: `found`, the fingerprint of `name`, is not that of the adapter's base.
        """
        if found != self.fingerprint:
            raise CannotShareError(f"{self.folder} was trained on {self.base}, whose weights are not those of {name}")


def trunk_of(model: Any) -> nn.Module:
    """The layers below the head, of a plain model or inside PEFT's wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk: nn.Module = inner.base_model
    return trunk


def fingerprint(model: Any) -> str:
    """sha256 over name, shape and some values of each tensor of the trunk, adapters left out.

    The same for a causal language model, a token classifier and a PEFT model on one base, wherever its files lie.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(trunk_of(model).named_parameters()):
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        flat = parameter.detach().flatten()
        step = max(1, len(flat) // SAMPLE) | 1  # odd, so that not one column of a matrix gives all values
        values = flat[::step].float().cpu().contiguous()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def save_adapter(adapted: Any, out: Path, base: str | Path | None = None) -> None:
    """Write `out/adapter` from a PEFT model with one adapter, before that is merged.

    `base` is where the base can be opened, by default where it came from.
    """
    folder = out / FOLDER
    forget_adapter(out)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, empty but for headings
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    base = str(base or config["base_model_name_or_path"] or "")
    config["base_model_name_or_path"] = str(Path(base).resolve()) if base and Path(base).is_dir() else base or None
    config["target_modules"] = sorted(config["target_modules"])  # a set: in another order each time
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / BASE).write_text(json.dumps({"fingerprint": fingerprint(adapted)}) + "\n", encoding="utf-8")


def merge_adapter(adapted: Any, base: str | Path, out: Path | None = None) -> Any:
    """The plain model with its adapter merged in float32, then in the precision in which the base is stored.

    The adapter alone is written to `out/adapter` first, if `out` is given.
    """
    came_in = restore_frozen(adapted) or stored_half(base)
    if out is not None:
        save_adapter(adapted, out, base)
    merged = adapted.merge_and_unload()
    merged.config.pad_token_id = adapted.config.pad_token_id
    return merged if came_in is None else merged.to(came_in)


def forget_adapter(out: Path) -> None:
    """Remove the adapter of weights that are written over."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def read_adapter(model: str | Path) -> SavedAdapter:
    """The adapter beside the merged weights of `model`.

    Raises:
        CannotShareError: there is none, or none that is LoRA and nothing else, or it says nothing about its base.
        ValueError: its weights are not finite.
    """
    folder = Path(model) / FOLDER
    if not (folder / CONFIG).is_file():
        raise CannotShareError(f"{model} has no {FOLDER}/; it was not trained with LoRA here")
    if not (folder / BASE).is_file():
        raise CannotShareError(f"{folder} has no {BASE}, so nothing says which weights it was trained on")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    different = [name for name, value in _PLAIN.items() if config.get(name, value) != value]
    different += [] if isinstance(config["target_modules"], list) else ["target_modules"]
    tensors = load_file(folder / WEIGHTS)
    head = {name.rpartition(".")[2]: value for name, value in tensors.items() if name.split(".")[-2] in HEAD_NAMES}
    weights = {name: value for name, value in tensors.items() if _LORA.search(name)}
    if config["peft_type"] != "LORA" or different or len(weights) + len(head) != len(tensors):
        raise CannotShareError(f"{folder} is not a plain LoRA adapter ({', '.join(different) or config['peft_type']})")
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{folder}: the adapter holds NaN or infinite values; the training run diverged")
    targets = [name for name in config["target_modules"] if name not in HEAD_NAMES]
    described = json.loads((folder / BASE).read_text(encoding="utf-8"))
    base = config["base_model_name_or_path"] or ""
    return SavedAdapter(
        folder, base, described["fingerprint"], config["r"], config["lora_alpha"], targets, weights, head
    )
