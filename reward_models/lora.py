"""LoRA adapters of every model that is trained: policies, reward models, value models, students."""

from __future__ import annotations

from typing import Any

from reward_models.heads import HEAD_NAMES
from reward_models.settings import LoraSettings


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
