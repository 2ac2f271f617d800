"""LoRA adapters of every model that is trained: policies, reward models, value models, students."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from reward_models.bf16 import in_bf16
from reward_models.heads import HEAD_NAMES
from reward_models.settings import LoraSettings, OptimisationSettings


def lora_config(lora: LoraSettings, scorer: bool = False) -> Any:
    """PEFT's LoraConfig, or None if `r` is 0.

    The head of a `scorer`, a token classifier, is trained and saved in full, not adapted.
    """
    if not lora.r:
        return None
    from peft import LoraConfig

    kind: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if scorer:
        kind = {"task_type": "TOKEN_CLS", "exclude_modules": list(HEAD_NAMES)}
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        **kind,
    )


def with_lora(model: Any, lora: LoraSettings, scorer: bool = False) -> Any:
    """The model with LoRA adapters, or unchanged if `r` is 0."""
    from peft import get_peft_model

    config = lora_config(lora, scorer)
    return get_peft_model(model, config) if config else model


def four_bit(settings: OptimisationSettings, scorer: bool = False) -> Any:
    """How the frozen weights are loaded in 4 bits (NF4 of QLoRA, Dettmers et al. 2023); None where they are not.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if not settings.load_in_4bit:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("load_in_4bit needs bitsandbytes, which is not installed; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16 if in_bf16(settings.bf16) else torch.float32,
        # not given, the output layer of a language model is left out
        llm_int8_skip_modules=list(HEAD_NAMES) if scorer else None,
    )


def never_pack(model: Any) -> None:
    """Keep weights in 4 bits as a backward pass can use them, on CPUs with AVX512-BF16.

    There the first evaluation pass of a layer of bitsandbytes (0.50.2) packs its weights for good, and a packed layer
    gives its input no gradient: whatever is trained after sampling or evaluation would get wrong updates, silently.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def in_four_bits(model: Any) -> bool:
    """Whether the frozen weights of a model, with or without adapters, are in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def on_full_weights(adapted: Any, base: Any) -> Any:
    """The adapters of a model in 4 bits on `base`, the same model in full precision, into which they can be merged."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    whole = get_peft_model(base, adapted.peft_config["default"])
    set_peft_model_state_dict(whole, get_peft_model_state_dict(adapted))
    return whole
