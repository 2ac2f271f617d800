"""The model before training (head, adapters, frozen parts) and after it (merged, gathered, saved)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from reward_models.adapters import forget_adapter, merge_adapter
from reward_models.bf16 import in_bf16, machine_computes_bf16
from reward_models.contract import StepContract
from reward_models.lora import four_bit, on_full_weights, with_lora
from reward_models.master_weights import master_weights, with_master_weights
from reward_models.model import freeze, new_model, quiet
from reward_models.one_reader import one_rank_reads
from reward_models.precision import engine_holds_weights, store_frozen_in_bf16
from reward_models.settings import TrainSettings
from reward_models.trainer import StepTrainer


def prepare_model(base: str | Path, contract: StepContract, settings: TrainSettings) -> Any:
    """The base with a zero head, adapters and frozen parts as the settings say.

    Raises:
        ValueError: 4-bit weights without bitsandbytes, or more frozen layers than there are.
    """
    torch.manual_seed(settings.seed)
    quantization = four_bit(settings, scorer=True)
    with one_rank_reads():
        model: Any = new_model(base, contract, quantization=quantization)
    model = with_lora(model, settings.lora, scorer=True)
    if settings.lora.r and in_bf16(settings.bf16) and not settings.load_in_4bit and not engine_holds_weights():
        store_frozen_in_bf16(model)
    freeze(model, settings.freeze_embeddings, settings.freeze_norms, settings.freeze_layers)
    return model


def save_model(
    trainer: StepTrainer, base: str | Path, contract: StepContract, settings: TrainSettings, out: Path
) -> Any:
    """Save the model and return it: adapters merged, and unmerged in `adapter/`. Sharded weights are gathered by the
    Trainer. Of what DeepSpeed trains in bf16 the float32 weights are saved; the model holds roundings of them."""
    accelerator = trainer.accelerator
    rounded = accelerator.distributed_type.value == "DEEPSPEED" and accelerator.mixed_precision == "bf16"
    if not settings.lora.r and rounded:
        _save_float32(trainer, out)
        return trainer.model
    if not settings.lora.r:
        if trainer.accelerator.is_main_process:
            forget_adapter(out)
        with quiet():
            trainer.save_model(str(out))
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing in it that training.json lacks
        return trainer.model
    adapted: Any = trainer.accelerator.unwrap_model(trainer.model)
    if rounded:
        _to_float32(adapted)
    if settings.load_in_4bit or rounded:  # merge into full-precision weights, not into quantised or rounded ones
        adapted = on_full_weights(adapted, new_model(base, contract))
    main = trainer.accelerator.is_main_process
    merged = merge_adapter(adapted, base, out if main else None)
    if main:
        with quiet():
            merged.save_pretrained(out)
    return fit_to_read(merged)


def fit_to_read(model: Any) -> Any:
    """A saved model as this machine scores with it: in float32 where it has no instructions for bfloat16."""
    return model if machine_computes_bf16() else model.float()


def _save_float32(trainer: StepTrainer, out: Path) -> None:
    accelerator = trainer.accelerator
    bare = accelerator.unwrap_model(trainer.model)
    weights = accelerator.get_state_dict(trainer.model_wrapped)  # of every process, as what follows
    weights = with_master_weights(weights or {}, bare, accelerator.is_main_process)
    if accelerator.is_main_process:
        forget_adapter(out)
        with quiet():
            bare.save_pretrained(out, state_dict={name: value.float() for name, value in weights.items()})
        config = copy.deepcopy(bare.config)
        config.dtype = torch.float32  # not that of the model in training
        config.save_pretrained(out)


def _to_float32(adapted: Any) -> None:
    masters = master_weights(adapted, True)
    for name, parameter in adapted.named_parameters():
        if name in masters:
            parameter.data = masters[name].to(parameter.device)
