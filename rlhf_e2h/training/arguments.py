"""What the stages that train with Hugging Face trainers share: their arguments, quiet logs, progress, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainerCallback

from reward_models.arguments import training_arguments
from reward_models.one_reader import ready
from reward_models.settings import TrainerSettings
from rlhf_e2h.parallel.processes import (
    check_together,
    device_arguments,
    forget_divided_loading,
    release_memory,
    size_buckets,
    whole_model,
    world_size,
)
from rlhf_e2h.runner.progress import Bar
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.training.checkpoints import checkpoint_to_resume, disk_errors, remove_damaged


@dataclass
class TrainingSettings(TrainerSettings):
    """Of fine-tuning a policy with TRL's SFTTrainer; other trainers of TRL have subclasses."""

    ARGUMENTS: ClassVar[str] = "trl.SFTConfig"


def trainer_arguments(settings: TrainerSettings, run: StageRun, **own: Any) -> Any:
    """Arguments of a trainer of a stage, for as many processes as were started.

    Raises:
        ValueError: the global batch does not divide by processes times micro-batch.
    """
    shared = {
        **device_arguments(),
        "ddp_find_unused_parameters": False,
        "include_num_input_tokens_seen": "non_padding",
        "data_seed": run.seed,
    }
    return training_arguments(settings, run.scratch / "trainer", run.seed, **shared | own)


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
    ready(trainer)
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
