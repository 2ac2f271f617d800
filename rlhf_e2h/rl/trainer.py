"""What changes while PPO trains - models, optimiser, KL coefficient -, how it is prepared, saved and brought back."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.rl.actor_critic import ActorCritic, disable_dropout
from rlhf_e2h.rl.checkpoint import last_checkpoint, load_training_state, optimizer_tensors, save_checkpoint, trainable
from rlhf_e2h.rl.kl import AdaptiveKL, FixedKL, kl_controller
from rlhf_e2h.rl.ppo_settings import PPOSettings

log = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Models, optimiser and coefficient: what changes while training."""

    model: nn.Module  # ActorCritic, as prepared by Accelerate
    reference: nn.Module | None  # None: the policy itself with its adapter switched off, or no reference at all
    tokenizer: Tokenizer
    optimizer: Any
    kl: FixedKL | AdaptiveKL
    settings: PPOSettings
    accelerator: Accelerator
    groups: list[list[nn.Parameter]] = field(default_factory=list)  # policy and value parameters that are trained

    @property
    def bare(self) -> ActorCritic:
        return self.accelerator.unwrap_model(self.model)


def prepare(
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    value_model: PreTrainedModel,
    tokenizer: Tokenizer,
    settings: PPOSettings,
    accelerator: Accelerator,
) -> Trainer:
    _, count = settings.micro_batches(accelerator.num_processes)
    accelerator.gradient_accumulation_steps = count
    module = ActorCritic(policy, value_model)
    disable_dropout(module)
    module.train()
    groups = [[p for p in part.parameters() if p.requires_grad] for part in (policy, value_model)]
    if not groups[0]:
        raise ValueError("the policy has no parameter that requires a gradient; switch LoRA on or unfreeze it")
    rates = [settings.learning_rate, settings.value_learning_rate or settings.learning_rate]
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate, "peak": rate} for group, rate in zip(groups, rates, strict=True) if group],
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    model, optimizer = accelerator.prepare(module, optimizer)
    if reference is not None:
        reference = reference.to(accelerator.device).eval().requires_grad_(False)
    kl = kl_controller(settings.kl_coef, settings.kl_target, settings.kl_horizon)
    return Trainer(model, reference, tokenizer, optimizer, kl, settings, accelerator, groups)


_RESULT_SETTINGS = {item.name for item in fields(PPOSettings) if item.metadata.get("affects_result", True)}


def save(trainer: Trainer, root: Path, steps: int) -> None:
    if trainer.accelerator.is_main_process:
        tensors = {
            "model.safetensors": trainable(trainer.bare),
            "optimizer.safetensors": optimizer_tensors(trainer.bare, trainer.optimizer.optimizer),
        }
        save_checkpoint(root, steps, tensors, {"kl_coef": trainer.kl.coefficient, "settings": asdict(trainer.settings)})
    trainer.accelerator.wait_for_everyone()


def resume(trainer: Trainer, root: Path) -> int:
    """Steps that the last checkpoint has behind it, after loading it; 0 without one.

    Raises:
        ValueError: the checkpoint was made with other settings.
    """
    found = last_checkpoint(root)
    if found is None:
        return 0
    folder, state = found
    for name, value in asdict(trainer.settings).items():
        if state["settings"].get(name) != value and name in _RESULT_SETTINGS:
            was = state["settings"].get(name)
            raise ValueError(f"{folder} was made with {name}={was}, not {value}; remove it to start again")
    load_training_state(folder, trainer.bare, trainer.optimizer.optimizer)
    trainer.kl.coefficient = state["kl_coef"]
    log.info("going on from %s", folder)
    return state["step"]
