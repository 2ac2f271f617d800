"""Train an ORM, PRM or OPRM from `Stepwise` records on the Hugging Face Trainer.

    train("base", records, "prm", "runs/prm", TrainSettings(learning_rate=1e-3), validation=held_out)

Runs on one process or under `accelerate launch` (DDP, DeepSpeed, FSDP): the global batch is the setting, the number of
accumulated micro-batches follows from it. The result is a Hugging Face checkpoint with its step contract.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import AutoConfig

from reward_models.arguments import scorer_arguments
from reward_models.bf16 import in_bf16
from reward_models.card import model_card
from reward_models.contract import StepContract
from reward_models.dataset import TokenRows, build_rows, check_material
from reward_models.evaluation import evaluate_records
from reward_models.forward import keeps_texts_apart
from reward_models.kinds import kind_of
from reward_models.model import load_tokenizer, quiet
from reward_models.one_reader import ready
from reward_models.peft_folder import merging_base
from reward_models.precision import base_dtype
from reward_models.prepare import prepare_model, save_model
from reward_models.records import Stepwise
from reward_models.resume import checkpoint_to_resume, run_identity
from reward_models.score import Scorer
from reward_models.settings import TrainSettings
from reward_models.shared_prefixes import reads_trees
from reward_models.trainer import StepTrainer
from reward_models.vocabulary import fit_vocabulary

__all__ = ["TrainSettings", "train"]

CHECKPOINTS = "checkpoints"
# Up to this many tokens the CPU trains faster with plain attention: the backward pass of the fused kernel is slow in
# bf16 (measured on AVX-512 with 35 tokens a row: 22,500 against 13,700 tokens/s and core).
SHORT = 256
OnLog = Callable[[Mapping[str, float]], None]
OnEpoch = Callable[[int, Scorer], None]


@merging_base
def train(
    base: str | Path,
    records: Sequence[Stepwise],
    kind: str,
    out: str | Path,
    settings: TrainSettings,
    validation: Sequence[Stepwise] | None = None,
    on_log: OnLog | None = None,
    contract: StepContract | None = None,
    on_epoch: OnEpoch | None = None,
    order: Callable[[list[int]], Sampler[int]] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_validated: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train a reward model of `kind` (a name in `kinds.KINDS`) and save it in `out`.

    `contract` sets template, separator and aggregation; without one the defaults of the kind hold. `on_log` gets the
    Trainer's logs with `step` and `max_steps` in them, `on_step` those two after every step; `on_epoch` the number of
    each finished epoch and a scorer of the model as it then is, on every process; `on_validated` the number of
    `validation` records scored by each batch, when all is trained. `order` makes the order of training rows, as a
    sampler of row numbers: it is given the index in `records` of each row, and replaces grouping by length.

    Returns:
        Counts of what was used and left out, the last training loss, and `validation`: the metrics of
        `evaluation.evaluate_records` on the saved weights. The same is written to `out/training.json`.

    Raises:
        ValueError: settings that contradict each other, or no record with a label for this kind.
    """
    out = Path(out)
    contract = contract or StepContract(kind)
    if contract.kind != kind:
        raise ValueError(f"kind is {kind!r} but the contract says {contract.kind!r}; make them equal")
    held_out = list(validation or [])
    _check_selection(held_out, kind, settings)
    tokenizer = load_tokenizer(base)
    fit_vocabulary(tokenizer, AutoConfig.from_pretrained(base).get_text_config().vocab_size, base)
    chosen = {name: getattr(settings, name) for name in ("loss_on", "max_length", "orm_share", "seed")}
    rows, counts = build_rows(records, tokenizer, contract, **chosen)
    check_material(records, rows.sources, counts, kind, settings.max_length)
    model = prepare_model(base, contract, settings)
    model.config.pad_token_id = tokenizer.pad_token_id
    _fit_attention(model, rows, settings)
    reading: dict[str, Any] = {"max_length": settings.max_length, "share_prefixes": settings.share_prefixes}
    scorer = Scorer(model, tokenizer, contract, overlong="skip", **reading)
    arguments = scorer_arguments(out / CHECKPOINTS, settings, kind, len(rows))
    trainer = StepTrainer(
        model,
        arguments,
        rows,
        settings=settings,
        evaluate_fn=(lambda: evaluate_records(scorer, held_out)) if held_out else None,
        on_log=on_log,
        on_epoch=(lambda epoch: on_epoch(epoch, scorer)) if on_epoch else None,
        on_step=on_step,
        order=order(rows.sources) if order else None,
    )
    _check_launch(trainer)
    _check_adapters(trainer, settings)
    steps, loss = _run(trainer, out, run_identity(base, records, held_out, contract, settings))
    scorer.model = save_model(trainer, base, contract, settings, out)
    result: dict[str, Any] = {**counts, "kind": kind, "steps": steps, "train_loss": loss}
    result["tokens"] = round(steps * settings.batch_size * trainer.tokens_per_row)
    result["validation"] = evaluate_records(scorer, held_out, on_validated) if held_out else None
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(out)
        report = {**result, "base": str(base), "base_dtype": base_dtype(base), "contract": contract.to_dict()}
        report |= {"settings": asdict(settings)}
        _write_report(out, {**report, "levels": _tally(records, "level"), "sources": _tally(records, "source")})
    return result


def _tally(records: Sequence[Stepwise], field: str) -> dict[str, int]:
    """How many records have each value of a field that passed through; records without it are left out."""
    values = (record.extra.get(field) for record in records)
    return dict(Counter(str(value) for value in values if value is not None))


def _run(trainer: StepTrainer, out: Path, identity: str) -> tuple[int, float]:
    """Train, from a checkpoint of the same run if there is one; optimiser steps and mean loss."""
    with trainer.accelerator.main_process_first():
        checkpoint = checkpoint_to_resume(out / CHECKPOINTS, identity)
    ready(trainer)
    with quiet():
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    if not math.isfinite(outcome.training_loss):
        rate = trainer.args.learning_rate
        raise ValueError(f"the training loss is {outcome.training_loss}; lower the learning rate {rate}")
    return outcome.global_step, outcome.training_loss


def _write_report(out: Path, report: dict[str, Any]) -> None:
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(model_card(report), encoding="utf-8")
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _check_selection(held_out: Sequence[Stepwise], kind: str, settings: TrainSettings) -> None:
    """Early stopping needs both classes, found out before hours of training rather than after."""
    if settings.eval_steps and not held_out:
        raise ValueError(
            f"eval_steps is {settings.eval_steps} but there are no validation records; pass some, or set 0"
        )
    classes = {label for record in held_out for label in kind_of(kind).truths(record)}
    if settings.patience and not {0, 1} <= classes:
        selection = kind_of(kind).selection
        raise ValueError(f"early stopping watches {selection}, but validation labels are only {classes - {None}}")


def _check_launch(trainer: StepTrainer) -> None:
    """Accelerate turns FSDP into DDP without a word where there is no GPU."""
    found = trainer.accelerator.distributed_type.value
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and found != "FSDP":
        raise ValueError(
            f"the launch file asks for FSDP, but Accelerate uses {found}: its FSDP needs several processes, each "
            "with a GPU; without GPUs launch with DDP or ZeRO-3"
        )


def _check_adapters(trainer: StepTrainer, settings: TrainSettings) -> None:
    if settings.lora.r and trainer.divides_weights:
        raise ValueError(
            f"lora.r {settings.lora.r} under ZeRO-3 or FSDP: adapters cannot be merged into sharded weights; "
            "launch with DDP, ZeRO-1 or ZeRO-2, or set lora.r to 0"
        )


def _fit_attention(model: Any, rows: TokenRows, settings: TrainSettings) -> None:
    """Check that the model can read the rows as they will come, and choose the faster attention for short ones."""
    limit, longest = getattr(model.config, "max_position_embeddings", None), max(rows.lengths)
    if limit and longest > limit:
        raise ValueError(
            f"a record has {longest} tokens, the model reads at most {limit}; "
            f"lower max_length from {settings.max_length} to {limit}"
        )
    if in_bf16(settings.bf16) and not torch.cuda.is_available() and longest <= SHORT and not settings.share_prefixes:
        model.set_attn_implementation("eager")
    if model.device.type == "meta":
        return  # rank 0 has the weights and can try; if it refuses, the launcher ends all
    if settings.padding_free and not keeps_texts_apart(model):
        raise ValueError(
            f"padding_free: {type(model).__name__} lets the texts of a packed row see each other; set it to false"
        )
    if settings.share_prefixes and not reads_trees(model):
        raise ValueError(
            f"share_prefixes: {type(model).__name__} with {model.config._attn_implementation} attention does not read "
            "a tree of texts as it reads each; set it to false"
        )
