"""Merged weights of a LoRA model: left out of a pack where its adapter and its base give them again byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_models.adapters import CONFIG, FOLDER
from reward_models.model import quiet
from rlhf_e2h.runner.places import place_of
from rlhf_e2h.runner.run_files import hash_file


def weight_files(names: list[str]) -> list[str]:
    """Those of a model folder's files that hold its weights."""
    return [name for name in names if name.startswith("model") and "/" not in name and "safetensors" in name]


def adapter_base(folder: Path) -> str | None:
    """What the adapter beside merged weights calls its base; None where there is none."""
    try:
        return json.loads((folder / FOLDER / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except FileNotFoundError:
        return None


def merge(folder: Path, base: str, out: Path) -> None:
    """Write the weights that the adapter in `folder` makes of the model `base` to `out`, as the stage saved them.

    Merged in float32 and stored in the precision that the folder's config.json names, like `models.save_policy`.

    Raises:
        OSError, ValueError, RuntimeError: the base cannot be opened, or the adapter does not fit it.
    """
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

    with quiet():
        import torch

        config = AutoConfig.from_pretrained(folder)
        scores = str((config.architectures or [""])[0]).endswith("ForTokenClassification")
        kind: Any = AutoModelForTokenClassification if scores else AutoModelForCausalLM
        stored = getattr(config, "dtype", None) or torch.float32
        model = kind.from_pretrained(base, config=config, dtype=torch.float32)
        merged: Any = PeftModel.from_pretrained(model, str(folder / FOLDER)).merge_and_unload()
        merged.to(stored).save_pretrained(out)


def difference(folder: Path, base: str, wanted: dict[str, str], out: Path) -> str | None:
    """Merge into `out`; None if that gives the wanted sha256 of each file of weights, else in what it differs."""
    try:
        merge(folder, base, out)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return f"its adapter cannot be merged again ({str(error).strip().partition(chr(10))[0][:160]})"
    found = {name: hash_file(out / name) for name in weight_files([file.name for file in out.iterdir()])}
    return None if found == wanted else "merging its adapter again gives other bytes"


def base_of(folder: Path) -> str | None:
    """Where the base of the adapter in a stage folder is on this machine."""
    name = adapter_base(folder)
    return None if name is None else place_of(folder, name)
