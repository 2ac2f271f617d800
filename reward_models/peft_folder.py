"""A PEFT folder (`adapter_config.json`, `adapter_model.safetensors`) is a model: its base with the adapter merged."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter alone, as `PeftModel.save_pretrained` writes it."""
    return (Path(path) / CONFIG).is_file() and not (Path(path) / "config.json").is_file()


def adapter_base(path: str | Path) -> str:
    """The folder or hub id that an adapter was trained on.

    Raises:
        ValueError: adapter_config.json names none, or the weights are not safetensors.
        FileNotFoundError: it names a folder that is not here.
    """
    folder = Path(path)
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    base = described.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder}: a LoRA adapter whose {CONFIG} names no base_model_name_or_path; write it there")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder}: a LoRA adapter without {WEIGHTS}; save it again with safe_serialization=True (pickled weights "
            "are not opened)"
        )
    for place in (Path(base), folder / base):
        if place.is_dir():
            return str(place.resolve())
    if Path(base).is_absolute() or base.startswith(".") or base.count("/") > 1:
        raise FileNotFoundError(
            f"{folder}: a LoRA adapter of {base!r}, which is not a folder here; put the base there, or write its "
            f"folder or hub id as base_model_name_or_path into {CONFIG}"
        )
    return str(base)


def load_merged(path: str | Path, dtype: torch.dtype | None = None) -> Any:
    """The causal language model of an adapter folder: base and adapter, merged; float32 unless told otherwise.

    Raises:
        ValueError: the adapter does not fit its base.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from reward_models.one_reader import placement, reads

    base = adapter_base(path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype or torch.float32, **placement())
    rows = _embedding_rows(Path(path) / WEIGHTS)
    if rows and rows != model.get_input_embeddings().num_embeddings:
        # tokens were added before training, and the adapter keeps their vectors
        model.resize_token_embeddings(rows, mean_resizing=reads())
    if not reads():
        model.config.name_or_path = str(path)
        return model
    try:
        merged: Any = PeftModel.from_pretrained(model, str(path)).merge_and_unload()
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: this adapter does not fit its base {base} ({reason}); name the right base") from None
    merged.config.name_or_path = str(path)
    merged.requires_grad_(True)  # PEFT has frozen the base
    return merged


def tokenizer_folder(path: str | Path) -> str:
    """Where the tokenizer of an adapter folder is: beside it, else with its base."""
    return str(path) if any(Path(path).glob("tokenizer*")) else adapter_base(path)


def merged_folder(path: str | Path, out: Path) -> Path:
    """Write the merged model with its tokenizer to `out`, unless it is there already: by one process, others wait."""
    from transformers import AutoConfig, AutoTokenizer

    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.parent / f".{out.name}.lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not out.is_dir():
            partial = out.with_name(f".{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            model = load_merged(path)
            stored = getattr(AutoConfig.from_pretrained(adapter_base(path)), "dtype", None)
            (model.to(stored) if stored else model).save_pretrained(partial)
            AutoTokenizer.from_pretrained(tokenizer_folder(path)).save_pretrained(partial)
            for extra in Path(path).glob("text_format.json"):
                shutil.copy(extra, partial)
            os.replace(partial, out)
    return out


def merging_base(function: Callable[..., T]) -> Callable[..., T]:
    """For functions whose first argument is a base model: an adapter folder is merged for the time of the call."""

    @functools.wraps(function)
    def call(base: Any, *args: Any, **kwargs: Any) -> T:
        if not is_adapter(base):
            return function(base, *args, **kwargs)
        with tempfile.TemporaryDirectory(prefix="merged-") as folder:
            return function(merged_folder(base, Path(folder) / "base"), *args, **kwargs)

    return call


def _embedding_rows(weights: Path) -> int | None:
    """Rows of the input embedding where an adapter holds it whole, because tokens were added."""
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118  safe_open has no iteration
            if name.endswith(("embed_tokens.weight", "wte.weight")):
                return int(file.get_slice(name).get_shape()[0])
    return None
