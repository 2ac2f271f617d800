"""Settings as the arguments of a Hugging Face or TRL trainer: the one place that makes them.

The global batch is the setting; the number of accumulated micro-batches follows from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from reward_models.bf16 import in_bf16
from reward_models.dataset import optimiser_steps
from reward_models.kinds import kind_of
from reward_models.settings import TrainerSettings, TrainSettings

WAIT = 12 * 3600  # seconds for the other processes; one may evaluate or save for all


def on_one_device(arguments: Any) -> Any:
    """The arguments of a Trainer that uses one GPU a process, also where several are visible.

    It would otherwise train with `torch.nn.DataParallel`, on as many times the batch as there are GPUs.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def training_arguments(settings: TrainerSettings, folder: str | Path, seed: int, **own: Any) -> Any:
    """Arguments of `settings.ARGUMENTS`, the library's class; what the trainer writes goes to `folder`.

    `own` are those that a caller adds or decides itself; `settings.extra` wins over them.

    Raises:
        ValueError: the global batch cannot be divided among the processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro = settings.micro_batch_rows(processes)
    given = {
        "output_dir": str(folder),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // (micro * processes),
        "warmup_steps": settings.warmup_steps,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "lr_scheduler_kwargs": settings.lr_scheduler_kwargs,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "adam_epsilon": settings.adam_epsilon,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": in_bf16(settings.bf16),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_strategy": "steps" if settings.save_steps else "no",
        "save_steps": settings.save_steps or 500,
        "save_total_limit": settings.save_total_limit,
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": False,
    }
    return on_one_device(settings.arguments_class()(**given | own | settings.extra))


def scorer_arguments(folder: Path, settings: TrainSettings, kind: str, rows: int) -> Any:
    """Arguments of the Trainer of a reward model of `kind` on N training rows; checkpoints go to `folder`.

    Raises:
        ValueError: the global batch cannot be divided among the processes.
    """
    save_every = settings.save_steps or (settings.eval_steps if settings.patience else 0)
    arguments = training_arguments(
        settings,
        folder,
        settings.seed,
        ddp_timeout=WAIT,
        warmup_steps=warmup(settings, rows),
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 500,
        remove_unused_columns=False,
        **evaluation(settings.eval_steps, kind_of(kind).selection if settings.patience else None),
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.world_size != world:
        raise ValueError(
            f"{world} processes were started, but each sees {arguments.world_size}: they would train alone; check the "
            "launch file"
        )
    return arguments


def warmup(settings: TrainerSettings, rows: int) -> float:
    """Warm-up steps on N rows, rounded to the nearest; the Trainer would round a share of all steps up."""
    if settings.warmup_steps >= 1:
        return settings.warmup_steps
    return round(settings.warmup_steps * planned_steps(settings, rows))


def planned_steps(settings: TrainerSettings, rows: int) -> int:
    """Optimiser steps on N rows."""
    if settings.max_steps > 0:
        return settings.max_steps
    return optimiser_steps(rows, settings.batch_size, settings.num_train_epochs)


def evaluation(steps: int, best: str | None) -> dict[str, Any]:
    """Arguments for evaluating every N steps (0: not), and for ending with the weights best by a metric."""
    return {
        "eval_strategy": "steps" if steps else "no",
        "eval_steps": steps or None,
        "load_best_model_at_end": best is not None,
        "metric_for_best_model": f"eval_{best}" if best else None,
        "greater_is_better": True,
    }
