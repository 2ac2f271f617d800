"""Train an ORM, PRM or OPRM from `Stepwise` records on the Hugging Face Trainer.

    train("base", records, "prm", "runs/prm", TrainSettings(learning_rate=1e-3, epochs=2), validation=held_out)

Runs on one process or under `accelerate launch` (DDP, DeepSpeed, FSDP): the global batch is the setting, the number of
accumulated micro-batches follows from it. The result is a Hugging Face checkpoint with its step contract.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import Sampler
from transformers import BitsAndBytesConfig, TrainingArguments

from reward_models.card import model_card
from reward_models.contract import StepContract
from reward_models.dataset import TokenRows, build_rows, optimiser_steps
from reward_models.evaluation import SELECTION, evaluate_records
from reward_models.model import HEAD_NAMES, freeze, load_tokenizer, new_model, quiet
from reward_models.records import Stepwise
from reward_models.score import Scorer
from reward_models.targets import LOSS_ON
from reward_models.trainer import StepTrainer, early_stopping

CHECKPOINTS = "checkpoints"
# Up to this many tokens the CPU trains faster with plain attention: the backward pass of the fused kernel is slow in
# bf16 (measured on AVX-512 with 35 tokens a row: 22,500 against 13,700 tokens/s and core).
SHORT = 256
OnLog = Callable[[Mapping[str, float]], None]
OnEpoch = Callable[[int, Scorer], None]


@dataclass
class TrainSettings:
    """How to train. The defaults are the paper's for 7B models (Table 4); a model of a million wants 1e-3."""

    learning_rate: float = 2e-5
    epochs: float = 2.0
    batch_size: int = 128  # solutions per optimiser step, over all processes
    micro_batch_size: int | None = None  # solutions per process and forward pass; None: the whole share of the batch
    warmup: float = 0.1  # share of all steps over which the learning rate rises
    weight_decay: float = 0.0
    lr_schedule: str = "cosine"  # any name of the Hugging Face Trainer: linear, cosine, constant_with_warmup ...
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False  # autocast; the weights stay float32
    max_length: int = 1024  # tokens; longer records are left out and counted
    loss_on: str = "every_token"  # or "step_end"; see targets.py
    orm_share: float | None = None  # OPRM: share of outcome records in the mixture; None: records as they come
    lora_rank: int = 0  # 0: full fine-tuning
    lora_alpha: int = 32
    load_in_4bit: bool = False  # QLoRA; needs bitsandbytes and lora_rank > 0
    freeze_embeddings: bool = False  # the paper freezes embeddings and norms
    freeze_norms: bool = False
    gradient_checkpointing: bool = False
    group_by_length: bool = True  # batches of similar length: less padding
    log_every: int = 20  # steps
    eval_every: int = 0  # steps between evaluations on `validation`; 0: only at the end
    patience: int = 0  # evaluations without a better one before stopping; 0: run to the end, keep the last weights
    checkpoint_every: int = 0  # steps between checkpoints, from which a killed run goes on; 0: none

    def __post_init__(self) -> None:
        if self.loss_on not in LOSS_ON:
            raise ValueError(f"loss_on {self.loss_on!r} is not known; choose one of {', '.join(LOSS_ON)}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}; "
                "choose a divisor of it"
            )
        if self.patience and not self.eval_every:
            raise ValueError(f"patience is {self.patience} but eval_every is 0; early stopping needs evaluations")
        if self.patience and self.checkpoint_every % self.eval_every:
            raise ValueError("with early stopping checkpoint_every must be a multiple of eval_every, or 0")
        if self.load_in_4bit and not self.lora_rank:
            raise ValueError("load_in_4bit needs lora_rank > 0; 4-bit weights cannot be trained themselves")


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
) -> dict[str, Any]:
    """Train a reward model of `kind` (orm, prm, oprm) and save it in `out`.

    `contract` sets template, separator and aggregation; without one the defaults of the kind hold. `on_log` gets the
    Trainer's logs with `step` and `max_steps` in them; `on_epoch` the number of each finished epoch and a scorer of the
    model as it then is, on every process. `order` makes the order of training rows, as a sampler of row numbers: it is
    given the index in `records` of each row, and replaces grouping by length.

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
    rows, counts = build_rows(
        records,
        tokenizer,
        contract,
        loss_on=settings.loss_on,
        max_length=settings.max_length,
        orm_share=settings.orm_share,
        seed=settings.seed,
    )
    model = _prepare_model(base, contract, settings)
    model.config.pad_token_id = tokenizer.pad_token_id
    _check_length(model, rows, settings)
    if settings.bf16 and not torch.cuda.is_available() and max(rows.lengths) <= SHORT:
        model.set_attn_implementation("eager")
    scorer = Scorer(model, tokenizer, contract, max_length=settings.max_length, overlong="skip")

    trainer = StepTrainer(
        model,
        _arguments(out / CHECKPOINTS, settings, kind, len(rows)),
        rows,
        batch_size=settings.batch_size,
        group_by_length=settings.group_by_length,
        evaluate_fn=(lambda: evaluate_records(scorer, held_out)) if held_out else None,
        on_log=on_log,
        on_epoch=(lambda epoch: on_epoch(epoch, scorer)) if on_epoch else None,
        order=order(rows.sources) if order else None,
    )
    for callback in early_stopping(settings.patience):
        trainer.add_callback(callback)
    identity = _identity(base, records, held_out, contract, settings)
    with trainer.accelerator.main_process_first():
        checkpoint = _checkpoint_to_resume(out / CHECKPOINTS, identity)
    with quiet():
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    if not math.isfinite(outcome.training_loss):
        raise ValueError(
            f"the training loss is {outcome.training_loss}; lower the learning rate {settings.learning_rate}"
        )

    scorer.model = _save(trainer, base, contract, settings, out)
    result: dict[str, Any] = {**counts, "kind": kind, "steps": outcome.global_step, "train_loss": outcome.training_loss}
    result["validation"] = evaluate_records(scorer, held_out) if held_out else None
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(out)
        report = {**result, "base": str(base), "contract": contract.to_dict(), "settings": asdict(settings)}
        (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (out / "README.md").write_text(model_card(report), encoding="utf-8")
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return result


def _prepare_model(base: str | Path, contract: StepContract, settings: TrainSettings) -> Any:
    torch.manual_seed(settings.seed)
    quantization = None
    if settings.load_in_4bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=list(HEAD_NAMES)
        )
    model: Any = new_model(base, contract, quantization=quantization)
    if settings.lora_rank:
        model = _with_lora(model, settings)
    freeze(model, settings.freeze_embeddings, settings.freeze_norms)
    return model


def _with_lora(model: Any, settings: TrainSettings) -> Any:
    adapter = LoraConfig(
        task_type=TaskType.TOKEN_CLS,  # trains and saves the head in full
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules="all-linear",
        exclude_modules=list(HEAD_NAMES),
    )
    return get_peft_model(model, adapter)


def _arguments(folder: Path, settings: TrainSettings, kind: str, rows: int) -> TrainingArguments:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = settings.micro_batch_size or settings.batch_size // world
    if not micro or settings.batch_size % (micro * world):
        raise ValueError(
            f"batch_size {settings.batch_size} cannot be split into micro-batches of {micro} on {world} processes; "
            f"make it a multiple of {max(micro, 1) * world}"
        )
    save_every = settings.checkpoint_every or (settings.eval_every if settings.patience else 0)
    steps = optimiser_steps(rows, settings.batch_size, settings.epochs)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * world),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.lr_schedule,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if settings.eval_every else "no",
        eval_steps=settings.eval_every or None,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 500,
        save_total_limit=2,
        load_best_model_at_end=bool(settings.patience),
        metric_for_best_model=f"eval_{SELECTION[kind]}" if settings.patience else None,
        greater_is_better=True,
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _save(trainer: StepTrainer, base: str | Path, contract: StepContract, settings: TrainSettings, out: Path) -> Any:
    """Save the model, adapters merged, and return it. Sharded weights are gathered by the Trainer."""
    if not settings.lora_rank:
        with quiet():
            trainer.save_model(str(out))
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing in it that training.json lacks
        return trainer.model
    adapted: Any = trainer.accelerator.unwrap_model(trainer.model)
    if settings.load_in_4bit:  # merge into full-precision weights, not into the quantised ones
        state = get_peft_model_state_dict(adapted)
        adapted = _with_lora(new_model(base, contract), settings)
        set_peft_model_state_dict(adapted, state)
    merged = adapted.merge_and_unload()
    merged.config.pad_token_id = adapted.config.pad_token_id
    if trainer.accelerator.is_main_process:
        with quiet():
            merged.save_pretrained(out)
    return merged


def _check_selection(held_out: Sequence[Stepwise], kind: str, settings: TrainSettings) -> None:
    """Early stopping needs both classes, found out before hours of training rather than after."""
    if settings.eval_every and not held_out:
        raise ValueError(
            f"eval_every is {settings.eval_every} but there are no validation records; pass some, or set 0"
        )
    classes = {record.outcome for record in held_out}
    if kind != "orm":
        classes = {label for record in held_out for label in record.labels or []}
    if settings.patience and not {0, 1} <= classes:
        raise ValueError(f"early stopping watches {SELECTION[kind]}, but validation labels are only {classes - {None}}")


def _check_length(model: Any, rows: TokenRows, settings: TrainSettings) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and max(rows.lengths) > limit:
        raise ValueError(
            f"a record has {max(rows.lengths)} tokens, the model reads at most {limit}; "
            f"lower max_length from {settings.max_length} to {limit}"
        )


def _identity(
    base: str | Path,
    records: Sequence[Stepwise],
    held_out: Sequence[Stepwise],
    contract: StepContract,
    settings: TrainSettings,
) -> str:
    """Hash of what decides the weights; a checkpoint of anything else is not resumed."""
    neutral = {"checkpoint_every", "log_every"}
    kept = {name: value for name, value in asdict(settings).items() if name not in neutral}
    digest = hashlib.sha256(json.dumps([str(base), contract.to_dict(), kept], sort_keys=True).encode())
    for record in (*records, *held_out):
        digest.update(json.dumps(record.to_row(), sort_keys=True).encode())
    return digest.hexdigest()


def _checkpoint_to_resume(folder: Path, identity: str) -> str | None:
    """The newest complete checkpoint of the same run; checkpoints of another run are removed."""
    mark = folder / "identity"
    if folder.is_dir() and not (mark.is_file() and mark.read_text() == identity):
        shutil.rmtree(folder)
    if not mark.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(identity)
    # the Trainer writes trainer_state.json last, so a checkpoint without it was cut short
    complete = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None
