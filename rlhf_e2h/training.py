"""What the stages that train with Hugging Face trainers share: their arguments, quiet logs, progress, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from rlhf_e2h.config import setting
from rlhf_e2h.runs import StageRun
from rlhf_e2h.tracking import Bar


@dataclass
class TrainingSettings:
    """Optimisation, the same names in every training stage."""

    learning_rate: float = 1e-4
    epochs: float = 1.0
    max_steps: int = -1  # overrides epochs where positive
    batch_size: int = 32  # sequences an update, over all processes
    micro_batch_size: int = setting(32, affects_result=False)  # sequences at once on one process
    warmup_ratio: float = 0.05
    schedule: str = "cosine"  # any scheduler name of transformers
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 1024  # tokens; longer examples are cut on the right
    bf16: bool = False
    gradient_checkpointing: bool = False
    checkpoint_every: int = 0  # optimiser steps; 0 keeps none, so that a killed stage starts over

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.micro_batch_size < 1:
            raise ValueError(
                f"batch_size {self.batch_size} and micro_batch_size {self.micro_batch_size} must be at least 1"
            )
        if self.batch_size > self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}; "
                "change one of them"
            )


def trainer_arguments(settings: TrainingSettings, run: StageRun, world_size: int = 1) -> dict[str, Any]:
    """Keyword arguments for any `TrainingArguments` class; accumulation is derived from the global batch.

    Raises:
        ValueError: the global batch does not divide by processes times micro-batch.
    """
    micro = min(settings.micro_batch_size, max(1, settings.batch_size // world_size))
    if settings.batch_size % (micro * world_size):
        raise ValueError(
            f"batch_size {settings.batch_size} does not divide by {world_size} processes x micro-batch {micro}; "
            "change batch_size or micro_batch_size"
        )
    return {
        "output_dir": str(run.scratch / "trainer"),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // (micro * world_size),
        "warmup_steps": settings.warmup_ratio,  # below 1 it is a share of all steps
        "lr_scheduler_type": settings.schedule,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.bf16,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "steps" if settings.checkpoint_every else "no",
        "save_steps": settings.checkpoint_every or 500,
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": run.seed,
        "data_seed": run.seed,
        "dataloader_pin_memory": False,
    }


class Reporter(TrainerCallback):
    """Sends a trainer's logs to metrics.jsonl and its steps to our progress bar."""

    def __init__(self, run: StageRun, bar: Bar) -> None:
        self.run, self.bar = run, bar

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and state.is_world_process_zero:
            self.run.log({f"train/{name}": value for name, value in logs.items()}, step=state.global_step)


def fit(trainer: Any, run: StageRun, description: str) -> dict[str, float]:
    """Train with a progress bar, from the last whole checkpoint if a killed run left one. Returns the final metrics."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    steps = _total_steps(trainer)
    with run.progress(steps, description, "steps") as bar:
        trainer.add_callback(Reporter(run, bar))
        output = trainer.train(resume_from_checkpoint=_last_checkpoint(Path(trainer.args.output_dir)))
    return output.metrics


def _total_steps(trainer: Any) -> int:
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    per_epoch = -(-len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps)
    return int(per_epoch * trainer.args.num_train_epochs)


def _last_checkpoint(folder: Path) -> str | None:
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return found if found and (Path(found) / "trainer_state.json").is_file() else None
