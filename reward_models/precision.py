"""Frozen weights in bfloat16: what is not trained needs no float32 copy when training computes in bfloat16.

Autocast would round a float32 weight anew in every pass, which on a CPU takes longer than the product itself. Trained
weights (adapters, heads) stay float32. Before a model is saved its frozen weights are what they were.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
MARK = "_stored_in_bf16"  # on a base: "exactly", or "rounded" where its weights have to be read again


def store_frozen_in_bf16(model: Any, linear_only: bool = False, always_autocast: bool = False) -> None:
    """Store what requires no gradient in bfloat16, in place; for models whose passes are under autocast.

    Args:
        linear_only: weights of linear layers alone, which autocast rounds anyway, so that nothing changes at all.
            Otherwise embeddings and norms too, so that the states between layers are bfloat16 as well.
        always_autocast: no pass of the model is outside autocast, so adapters need not convert their input.
    """
    base = _base_of(model)
    tied = {id(layer.weight) for layer in base.modules() if isinstance(layer, nn.Embedding)}
    exact = True
    for name, module in base.named_modules():
        if linear_only and not isinstance(module, nn.Linear):
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad or ".lora_" in f".{name}.{kind}" or (linear_only and id(parameter) in tied):
                continue
            if parameter.dtype == torch.float32:
                rounded = parameter.data.to(torch.bfloat16)
                exact = exact and bool(torch.equal(rounded.float(), parameter.data))
                parameter.data = rounded
    if model is not base:
        setattr(base, MARK, "exactly" if exact else "rounded")
        _convert_inputs(model, not always_autocast)


def restore_frozen(model: Any) -> torch.dtype | None:
    """Put the float32 weights of `store_frozen_in_bf16` back; returns the precision in which the base came, if lower.

    Raises:
        OSError: the base, of which bfloat16 holds a rounded copy, cannot be read again.
    """
    base = _base_of(model)
    how = getattr(base, MARK, None)
    if how is None:
        return None
    delattr(base, MARK)
    source = _read_again(base) if how == "rounded" else {}
    _convert_inputs(model, True)
    for name, parameter in base.named_parameters():
        if parameter.dtype == torch.bfloat16:
            found = source.get(_plain(name), parameter.data)
            parameter.data = found.to(parameter.device, torch.float32)
    return torch.bfloat16 if how == "exactly" else None


def frozen_as_read(model: Any, parameters: Iterable[nn.Parameter]) -> dict[int, torch.Tensor]:
    """The float32 values of those `parameters` that are frozen roundings, by identity, from the base's files.

    DeepSpeed in bf16 rounds what it does not train, too, and keeps no float32 copy of it. Where the base cannot be
    read, or has no such weight (a new head), the rounding stays, in the first case with a warning.
    """
    rounded = {id(one) for one in parameters if not one.requires_grad and one.dtype == torch.bfloat16}
    base = _base_of(model)
    if not rounded or stored_half(base.config.name_or_path) == torch.bfloat16:
        return {}
    try:
        source = _read_again(base)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        log.warning("weights that were not trained are saved as bf16 roundings; the base cannot be read (%s)", reason)
        return {}
    named = ((id(one), _plain(name)) for name, one in base.named_parameters())
    return {key: source[name] for key, name in named if key in rounded and name in source}


def stored_half(base: str | Path) -> torch.dtype | None:
    """The half precision in which a base's files are; None for float32, or where no configuration says it."""
    from transformers import AutoConfig

    try:
        dtype = AutoConfig.from_pretrained(str(base)).get_text_config().dtype
    except (OSError, ValueError):  # no such folder any more, or the hub cannot be asked
        return None
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def base_dtype(base: str | Path) -> str:
    """The name of the precision of a base's files, for the report of a training: an export is stored so again."""
    return str(stored_half(base) or torch.float32).removeprefix("torch.")


def _convert_inputs(model: Any, on: bool) -> None:
    """Whether PEFT's layers copy their input to the adapters' precision, which autocast would turn back again."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = on


def _plain(name: str) -> str:
    """The name of a parameter below adapters as it was before them."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _read_again(base: Any) -> dict[str, torch.Tensor]:
    from reward_models.model import quiet
    from reward_models.one_reader import one_rank_reads

    with quiet(), one_rank_reads():
        again, report = type(base).from_pretrained(
            str(base.config.name_or_path), config=base.config, dtype=torch.float32, output_loading_info=True
        )
    return {name: one.data for name, one in again.named_parameters() if name not in report["missing_keys"]}


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def engine_holds_weights() -> bool:
    """Whether DeepSpeed or FSDP, as launched, decides on the precision in which weights are held."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("DEEPSPEED", "FSDP"))
