"""Which precision a model is opened in: for sampling, for scoring, and where adapters are trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from reward_models.bf16 import in_bf16, machine_computes_bf16
from reward_models.lora import in_four_bits
from reward_models.peft_folder import adapter_base, is_adapter
from reward_models.precision import engine_holds_weights, store_frozen_in_bf16
from reward_models.settings import Bf16
from rlhf_e2h.runner.hub import explained
from rlhf_e2h.training.models import base_of_context


def stored_dtype(path: str | Path) -> str:
    """The precision of a model's weights as they are stored, by its config; float32 where that does not say."""
    name = base_of_context(path)
    name = adapter_base(name) if is_adapter(name) else str(name)
    with explained(name):
        config = AutoConfig.from_pretrained(name)
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return str(found or "float32").removeprefix("torch.")


def sampling_dtype(path: str | Path) -> str:
    """Precision of a model that only samples or scores.

    On a GPU bfloat16: half of the memory. On a CPU with instructions for it bfloat16 where the weights are stored so,
    several times as fast as float32; else float32, which is exact.
    """
    if not machine_computes_bf16():
        return "float32"
    return "bfloat16" if torch.cuda.is_available() or stored_dtype(path) == "bfloat16" else "float32"


def training_dtype(path: str | Path, settings: Any) -> str:
    """Precision in which the base of adapters is opened: as it is stored, if that loses nothing.

    `settings` have `bf16` and `lora`, whatever trains.
    """
    held = in_bf16(settings.bf16) and settings.lora.r > 0 and not engine_holds_weights()
    return "bfloat16" if held and stored_dtype(path) == "bfloat16" else "float32"


def hold_frozen(model: Any, bf16: Bf16, linear_only: bool = False, always_autocast: bool = False) -> None:
    """Keep what is not trained in bfloat16 when training computes in it; DeepSpeed and FSDP see to that themselves.

    Adapters on weights in 4 bits are put back into float32: TRL trains them in bfloat16, which loses small updates.
    """
    if in_four_bits(model):
        for parameter in model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
        return
    if in_bf16(bf16) and not engine_holds_weights():
        store_frozen_in_bf16(model, linear_only, always_autocast)
