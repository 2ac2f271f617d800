"""Supervised fine-tuning of a policy on rows of prompt and completion, with TRL's trainer on our token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reward_models.lora import lora_config
from reward_models.model import freeze_parts
from rlhf_e2h.encoding import check_positions, trl_rows
from rlhf_e2h.records import Row
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.training.arguments import TrainingSettings, trained, trainer_arguments
from rlhf_e2h.training.lengths import report_lengths
from rlhf_e2h.training.precision import hold_frozen
from rlhf_e2h.training.sft_loss import sft_trainer
from rlhf_e2h.training.sft_plan import Snapshots, TrainingPlan


def finetune(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    settings: TrainingSettings,
    run: StageRun,
    description: str = "fine-tuning",
    extras: TrainingPlan | None = None,
) -> tuple[Any, float]:
    """Train on rows with `prompt` and `completion`; EOS is added and trained. Returns the model and the mean loss."""
    from datasets import Dataset

    arguments = trainer_arguments(
        settings, run, max_length=settings.max_length, completion_only_loss=True, packing=False
    )
    freeze_parts(model, settings.freeze_embeddings, settings.freeze_norms)
    encoded = trl_rows(tokenizer, rows)
    _report_lengths(encoded, settings.max_length, extras, run)
    check_positions(run.name, model, [len(row["input_ids"]) for row in encoded], settings.max_length)
    trainer = sft_trainer()(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(encoded),
        processing_class=tokenizer,
        peft_config=lora_config(settings.lora),
    )
    if settings.lora.r:
        hold_frozen(trainer.model, settings.bf16, always_autocast=True)
    for callback in extras.callbacks if extras else []:
        if isinstance(callback, Snapshots):
            callback.trainer = trainer
        trainer.add_callback(callback)
    if extras and extras.order:
        trainer._get_train_sampler = lambda *_: extras.order  # type: ignore[method-assign]
    model, metrics = trained(trainer, run, description)
    return model, metrics["train_loss"]


def _report_lengths(rows: Sequence[Row], max_length: int, extras: TrainingPlan | None, run: StageRun) -> None:
    """TRL cuts rows at max_length, and leaves out those of which only the prompt remains: say how many."""
    lengths = [(row["completion_mask"].count(0), len(row["input_ids"])) for row in rows]
    left_out, _ = report_lengths(run, lengths, max_length)
    if left_out and extras and extras.order:
        raise ConfigError(
            f"{run.name}: {left_out} of {len(rows)} solutions have no token left within training.max_length="
            f"{max_length}, since their prompts fill it, and a mixture needs all of them; raise it"
        )
