"""What the stages that train with Hugging Face trainers share: their arguments, quiet logs, progress, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from reward_models.settings import LoraSettings
from rlhf_e2h.parallel.processes import (
    check_together,
    device_arguments,
    forget_divided_loading,
    release_memory,
    size_buckets,
    whole_model,
    world_size,
)
from rlhf_e2h.runner.config import setting
from rlhf_e2h.runner.progress import Bar
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.training.checkpoints import checkpoint_to_resume, disk_errors, remove_damaged


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
    # of the schedule; the paper's code: cosine_with_min_lr with {min_lr_rate: 0.01}
    lr_scheduler_kwargs: dict[str, float] = field(default_factory=dict, metadata={"added": True})
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 1024  # tokens; longer examples are cut on the right
    bf16: bool = False
    gradient_checkpointing: bool = False
    # without LoRA: train all but input and output embeddings, all but norms; the paper freezes both everywhere
    freeze_embeddings: bool = setting(False, added=True)
    freeze_norms: bool = setting(False, added=True)
    lora: LoraSettings = field(default_factory=LoraSettings)
    checkpoint_every: int = 0  # optimiser steps; 0 keeps none, so that a killed stage starts over
    save_total_limit: int = setting(1, affects_result=False)  # checkpoints that are kept; one more while it is written

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

    def micro_batch_rows(self, processes: int) -> int:
        """Sequences at once on one of N processes.

        Raises:
            ValueError: the global batch does not divide by processes times micro-batch.
        """
        micro = min(self.micro_batch_size, max(1, self.batch_size // processes))
        if self.batch_size % (micro * processes):
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by {processes} processes x micro-batch {micro}; "
                "change batch_size or micro_batch_size"
            )
        return micro


def trainer_arguments(settings: TrainingSettings, run: StageRun) -> dict[str, Any]:
    """Keyword arguments for any `TrainingArguments` class; accumulation is derived from the global batch.

    Raises:
        ValueError: the global batch does not divide by processes times micro-batch.
    """
    processes = world_size()
    micro = settings.micro_batch_rows(processes)
    return {
        "output_dir": str(run.scratch / "trainer"),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // (micro * processes),
        "warmup_steps": settings.warmup_ratio,  # below 1 it is a share of all steps
        "lr_scheduler_type": settings.schedule,
        "lr_scheduler_kwargs": settings.lr_scheduler_kwargs,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.bf16,
        "gradient_checkpointing": settings.gradient_checkpointing,
        **device_arguments(),
        "ddp_find_unused_parameters": False,
        "save_strategy": "steps" if settings.checkpoint_every else "no",
        "save_steps": settings.checkpoint_every or 500,
        "save_total_limit": settings.save_total_limit,
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 10,
        "logging_first_step": True,
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

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A resumed run says again what the killed one had said, so that metrics.jsonl is whole."""
        if state.is_world_process_zero:
            for logs in state.log_history:
                self._say(logs, logs.get("step", 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and state.is_world_process_zero:
            self._say(logs, state.global_step)

    def _say(self, logs: dict[str, Any], step: int) -> None:
        self.run.log({f"train/{name}": value for name, value in logs.items() if name != "step"}, step=step)


def fit(trainer: Any, run: StageRun, description: str) -> dict[str, float]:
    """Train with a progress bar, from the last whole checkpoint if a killed run left one. Returns the final metrics."""
    from transformers.trainer_callback import PrinterCallback

    check_together(trainer.accelerator)
    size_buckets(trainer.accelerator, trainer.model)
    trainer.remove_callback(PrinterCallback)
    folder = Path(trainer.args.output_dir)
    if run.is_main:
        remove_damaged(folder)
    trainer.accelerator.wait_for_everyone()
    steps = _total_steps(trainer)
    with run.progress(steps, description, "steps") as bar, disk_errors(folder):
        trainer.add_callback(Reporter(run, bar))
        output = trainer.train(resume_from_checkpoint=checkpoint_to_resume(folder))
    forget_divided_loading()
    run.spend(trainer.state.num_input_tokens_seen, trainer.state.total_flos)
    return {**output.metrics, "train_loss": _over_processes(trainer.accelerator, output.metrics["train_loss"])}


def trained(trainer: Any, run: StageRun, description: str) -> tuple[Any, dict[str, float]]:
    """`fit`, and then the model with all its weights (see `whole_model`) and the metrics; all else is let go."""
    metrics = fit(trainer, run, description)
    model = whole_model(trainer)
    release(trainer)
    return model, metrics


def release(trainer: Any) -> None:
    """Let go of what a trainer holds beside the model: optimiser and moments, gradients, buffers, data, a reference.

    They would live as long as anything refers to the trainer, and DeepSpeed's as long as the process.
    """
    trainer.model.zero_grad(set_to_none=True)
    wrapped = getattr(trainer.accelerator, "deepspeed_engine_wrapped", None)
    if wrapped is not None:
        wrapped.engine.destroy()
    trainer.accelerator.free_memory()
    handler = trainer.callback_handler
    for holder in (trainer, handler):
        for name in ("optimizer", "lr_scheduler", "model", "model_wrapped", "ref_model", "train_dataloader"):
            if hasattr(holder, name):
                setattr(holder, name, None)
    release_memory()


def _over_processes(accelerator: Any, loss: float) -> float:
    """The mean of all processes: transformers has not yet averaged what came after the last line of the log."""
    if world_size() == 1:
        return loss
    return float(accelerator.reduce(torch.tensor(loss, device=accelerator.device), "mean"))


def _total_steps(trainer: Any) -> int:
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    per_epoch = -(-len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps)
    return int(per_epoch * trainer.args.num_train_epochs)
