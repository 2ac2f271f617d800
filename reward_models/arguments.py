"""Our settings in the words of the Hugging Face Trainer; the global batch is given, accumulation follows from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from reward_models.dataset import optimiser_steps
from reward_models.kinds import kind_of
from reward_models.settings import TrainSettings

WAIT = 12 * 3600  # seconds for the other processes; one may evaluate or save for all


def on_one_device(arguments: Any) -> Any:
    """The arguments of a Trainer that uses one GPU a process, also where several are visible.

    It would otherwise train with `torch.nn.DataParallel`, on as many times the batch as there are GPUs.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def training_arguments(folder: Path, settings: TrainSettings, kind: str, rows: int) -> TrainingArguments:
    """Arguments of the Trainer for a model of `kind` and N training rows; checkpoints go to `folder`.

    Raises:
        ValueError: the global batch cannot be divided among the processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = settings.micro_batch_rows(world)
    save_every = settings.checkpoint_every or (settings.eval_every if settings.patience else 0)
    steps = optimiser_steps(rows, settings.batch_size, settings.epochs)
    arguments = TrainingArguments(
        output_dir=str(folder),
        ddp_timeout=WAIT,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * world),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.lr_schedule,
        lr_scheduler_kwargs=settings.lr_scheduler_kwargs,
        max_grad_norm=settings.max_grad_norm,
        adam_beta2=settings.adam_beta2,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if settings.eval_every else "no",
        eval_steps=settings.eval_every or None,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 500,
        save_total_limit=2,
        load_best_model_at_end=bool(settings.patience),
        metric_for_best_model=f"eval_{kind_of(kind).selection}" if settings.patience else None,
        greater_is_better=True,
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.world_size != world:
        raise ValueError(
            f"{world} processes were started, but each sees {arguments.world_size}: they would train alone; check the "
            "launch file"
        )
    return on_one_device(arguments)
