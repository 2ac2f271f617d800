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

from rlhf_e2h.parallel.processes import size_buckets
from rlhf_e2h.parallel.sharding import (
    configure,
    divide,
    load_master_weights,
    load_whole_moments,
    prepare_reference,
    prepare_training,
    whole_copy,
    whole_moments,
)
from rlhf_e2h.rl.actor_critic import ActorCritic, disable_dropout
from rlhf_e2h.rl.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    last_checkpoint,
    load_moments,
    load_weights,
    save_checkpoint,
)
from rlhf_e2h.rl.endings import token_limit
from rlhf_e2h.rl.kl import AdaptiveKL, FixedKL, kl_controller
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.share_base import trained_parameters

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
    peaks: list[float] = field(default_factory=list)  # learning rate of each group of the optimiser
    steps_done: int = 0  # by the run that this one resumes from

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
    checkpoints: Path | None = None,
) -> Trainer:
    """Everything that training needs, resumed from the last checkpoint below `checkpoints` if there is one."""
    micro, count = settings.micro_batches(accelerator.num_processes)
    configure(accelerator, micro, count, settings.max_grad_norm)
    module = ActorCritic(policy, value_model, token_limit(tokenizer))
    disable_dropout(module)
    module.train()
    size_buckets(accelerator, module)
    kl = kl_controller(settings.kl_coef, settings.kl_target, settings.kl_horizon)
    found = find_checkpoint(checkpoints, settings) if checkpoints else None
    if found:
        load_weights(found[0], module)  # before weights may be sharded among processes
        kl.coefficient = found[1]["kl_coef"]
    divide(module, accelerator)
    groups = trained_parameters(policy, value_model)
    if not groups[0]:
        raise ValueError("the policy has no parameter that requires a gradient; switch LoRA on or unfreeze it")
    rates = [settings.learning_rate, settings.value_learning_rate or settings.learning_rate]
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True) if group],
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    model, optimizer = prepare_training(module, optimizer, accelerator)
    moments = load_moments(found[0]) if found else {}
    if moments:
        load_whole_moments(accelerator.unwrap_model(model), optimizer, moments, accelerator)
    if found:
        load_master_weights(found[0], accelerator.unwrap_model(model), accelerator)
    whole = None if reference is None else prepare_reference(reference, accelerator)
    peaks = [rate for group, rate in zip(groups, rates, strict=True) if group]
    steps = found[1]["step"] if found else 0
    return Trainer(model, whole, tokenizer, optimizer, kl, settings, accelerator, groups, peaks, steps)


_RESULT_SETTINGS = {item.name for item in fields(PPOSettings) if item.metadata.get("affects_result", True)}


def save(trainer: Trainer, root: Path, steps: int) -> None:
    """Write a checkpoint; every process must call it. It is the same under every parallelism strategy, so that a
    run may resume under another one."""
    accelerator, bare = trainer.accelerator, trainer.bare
    tensors = {
        WEIGHTS: whole_copy(bare, accelerator, trained=True),
        OPTIMIZER: whole_moments(bare, trainer.optimizer, accelerator),
    }
    if accelerator.is_main_process:
        decisive = {name: value for name, value in asdict(trainer.settings).items() if name in _RESULT_SETTINGS}
        state = {"kl_coef": trainer.kl.coefficient, "settings": decisive}
        save_checkpoint(root, steps, tensors, state, trainer.settings.save_total_limit)
    accelerator.wait_for_everyone()


def find_checkpoint(root: Path, settings: PPOSettings) -> tuple[Path, dict[str, Any]] | None:
    """The last complete checkpoint and its state.

    Raises:
        ValueError: the checkpoint was made with other settings.
    """
    found = last_checkpoint(root)
    if found is None:
        return None
    folder, state = found
    values = asdict(settings)
    for one in fields(PPOSettings):
        name, value = one.name, values[one.name]
        was = state["settings"].get(name, one.default)  # a setting that came later
        if was != value and name in _RESULT_SETTINGS:
            raise ValueError(f"{folder} was made with {name}={was}, not {value}; remove it to start again")
    log.info("going on from %s", folder)
    return found
