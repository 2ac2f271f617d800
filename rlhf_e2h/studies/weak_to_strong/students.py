"""Train a reward model on soft labels with the losses of `losses`: supervisor, student and ceiling alike.

The model, its scoring position and its contract are those of `reward_models`, so that the result is scored, served and
exported like any other outcome or process reward model. Only the labels (probabilities) and the loss differ.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import AutoConfig, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from reward_models.adapters import merge_adapter
from reward_models.arguments import evaluation, training_arguments, warmup
from reward_models.bf16 import in_bf16
from reward_models.contract import StepContract
from reward_models.dataset import LengthSampler, TokenRows
from reward_models.kinds import IGNORED, kind_of
from reward_models.lora import with_lora
from reward_models.metrics import auc
from reward_models.model import freeze_parts, is_causal, load_tokenizer, new_model
from reward_models.precision import store_frozen_in_bf16
from reward_models.prepare import fit_to_read
from reward_models.score import Scorer
from reward_models.settings import TrainerSettings
from reward_models.shared_prefixes import PrefixSampler, reads_trees
from reward_models.trainer import Steps
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.runner.config import ConfigError, setting
from rlhf_e2h.studies.weak_to_strong import losses as weak_losses
from rlhf_e2h.studies.weak_to_strong.soft_rows import Item, Labels, soft_rows


@dataclass
class LossSettings:
    """Which loss, and its constants (defaults: EleutherAI/w2s)."""

    name: Literal["xent", "logconf", "entropy", "window", "kl"] = "xent"
    weight: float = 0.5  # of the student's own prediction in the target: logconf, entropy
    warmup: int = 100  # optimiser steps until that weight is reached
    radius: float | None = 0.15  # window: half-width of the uncertain range; none: median |label - 1/2|
    balance_batch: bool = False  # labels with mean log-odds 0 in each batch: logconf


@dataclass
class FitSettings(TrainerSettings):
    """Optimisation of every model of the study; defaults are EleutherAI's, but for the learning rate."""

    learning_rate: float = 8e-5  # a model of a million parameters wants 5e-4
    num_train_epochs: float = 3.0
    warmup_steps: float = 0.1
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    held_out: float = 0.1  # share of problems whose weak labels choose the best checkpoint
    eval_steps: int = 0  # steps between such evaluations; 0: keep the last weights
    share_prefixes: bool = setting(False, added=True)  # read what solutions begin with once, as in a reward stage

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse("models of this study are small and quickly trained", "load_in_4bit", "save_steps")


class SoftTrainer(Trainer):
    """The Hugging Face Trainer with soft labels and a choice of loss."""

    def __init__(
        self, model: Any, arguments: TrainingArguments, rows: TokenRows, loss: LossSettings, radius: float,
        evaluate_fn: Callable[[], Mapping[str, float]] | None, share_prefixes: bool = False,
    ) -> None:  # fmt: skip
        collate: Callable[..., Any] = rows.merge if share_prefixes else partial(rows.collate, causal=is_causal(model))
        super().__init__(model, arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows)  # type: ignore[arg-type]
        self.model_accepts_loss_kwargs = False  # a mean over the micro-batch, which the Trainer averages
        self.loss_settings, self.radius, self.evaluate_fn = loss, radius, evaluate_fn
        self.history_H = torch.empty(0)  # the last p_0, for the adaptive threshold
        self.rows, self.share_prefixes = rows, share_prefixes
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        order = (self.args.train_batch_size, self.args.seed, lambda: int(self.state.epoch or 0))
        return PrefixSampler(self.rows.ids, *order) if self.share_prefixes else LengthSampler(self.rows.lengths, *order)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels_BT, _ = inputs.pop("labels"), inputs.pop("weights")
        outputs = model(**inputs)
        known_BT = labels_BT != IGNORED
        loss = self._loss(outputs.logits.squeeze(-1)[known_BT].float(), labels_BT[known_BT])
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        found = self.evaluate_fn() if self.evaluate_fn else {}
        logged = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(logged)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
        return logged

    def _loss(self, logits_R: torch.Tensor, labels_R: torch.Tensor) -> torch.Tensor:
        settings = self.loss_settings
        c = weak_losses.coefficient(self.state.global_step, settings.weight, settings.warmup)
        if settings.name == "logconf":
            prior = 0.5 if settings.balance_batch else None
            if settings.balance_batch:
                labels_R = weak_losses.balanced(labels_R)
            self.history_H = weak_losses.extended(self.history_H.to(logits_R.device), logits_R)
            return weak_losses.logconf(logits_R, labels_R, c, self.history_H, prior)
        if settings.name == "entropy":
            return weak_losses.entropy(logits_R, labels_R, c)
        if settings.name == "window":
            return weak_losses.window(logits_R, labels_R, self.radius)
        return {"xent": weak_losses.xent, "kl": weak_losses.kl}[settings.name](logits_R, labels_R)


def fit_soft(
    base: str | Path,
    items: Sequence[Item],
    labels: Labels,
    out: Path,
    settings: FitSettings,
    seed: int,
    loss: LossSettings | None = None,
    template: str | None = None,
    layers: int = 0,
    validation: tuple[Sequence[Item], Labels] | None = None,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
    kind: str = "orm",
    on_step: Callable[[int, int], None] | None = None,
    text_format: TextFormat = SECTIONS,
) -> Scorer:
    """Train a reward model on soft labels in [0, 1], save it in `out` and return it ready to score.

    Args:
        labels: for each item one label for its outcome (`kind` orm) or one a step (prm); NaN is not learnt from.
        layers: keep only the first N layers of the base (a small model without a download); 0 keeps all.
        validation: items with (weak) labels; hardened at 1/2, their AUC chooses the checkpoint if `eval_steps` is set.

    Raises:
        ConfigError: no item fits `max_length`, or more layers than there are.
    """
    loss = loss or LossSettings()
    contract = soft_contract(kind, template, text_format)
    tokenizer = load_tokenizer(base)
    rows = soft_rows(tokenizer, contract, items, labels, settings.max_length)
    torch.manual_seed(seed)
    model = _model(base, contract, settings, layers)
    model.config.pad_token_id = tokenizer.pad_token_id
    freeze_parts(model, settings.freeze_embeddings, settings.freeze_norms)
    scorer = Scorer(
        model, tokenizer, contract, max_length=settings.max_length, overlong="skip",
        share_prefixes=settings.share_prefixes,
    )  # fmt: skip
    learnt_R = torch.from_numpy(np.concatenate([label_T[label_T != IGNORED] for label_T in rows.labels]))
    radius = weak_losses.midweak_radius(learnt_R) if loss.radius is None else loss.radius
    steps = settings.eval_steps if validation else 0
    arguments = training_arguments(
        settings,
        out / "checkpoints",
        seed,
        warmup_steps=warmup(settings, len(rows)),
        logging_steps=20,
        save_strategy="steps" if steps else "no",
        save_steps=steps or 500,
        save_total_limit=2,
        remove_unused_columns=False,
        **evaluation(steps, "auc" if steps else None),
    )
    evaluate_fn = (lambda: weak_auc(scorer, *validation)) if validation else None
    trainer = SoftTrainer(model, arguments, rows, loss, radius, evaluate_fn, settings.share_prefixes)
    if on_log is not None:
        trainer.add_callback(_Logs(on_log))
    if on_step is not None:
        trainer.add_callback(Steps(on_step))
    trainer.train()
    # without autocast around it: the model scores as the one that is saved will
    trained: Any = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if settings.lora.r:
        trained = merge_adapter(trained, base, out)
    trained.save_pretrained(out)
    tokenizer.save_pretrained(out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    scorer.model = fit_to_read(trained)
    return scorer


def predict(scorer: Scorer, items: Sequence[Item]) -> NDArray[np.float64]:
    """P(right) of each solution (N,); 1/2 for one that is too long to be read, which takes no side."""
    scores_N = np.array([result.score for result in scorer.score_stream(items)])
    return np.where(np.isfinite(scores_N), scores_N, 0.5)


def soft_contract(kind: str, template: str | None, text_format: TextFormat = SECTIONS) -> StepContract:
    """How a model of the study reads solutions; `template` as in `StepContract`, that of the samples if None."""
    return StepContract(
        kind,
        template=template or text_format.template,
        separator=text_format.separator,
        answer_mark=text_format.answer_mark,
    )


def judge(scorer: Scorer, items: Sequence[Item]) -> Labels:
    """What a model says of each solution: P(right) of its steps if it is a process model, else of its outcome.

    1/2 where a solution is too long to be read.
    """
    by_step = kind_of(scorer.contract.kind).steps
    found = []
    for (_, steps), result in zip(items, scorer.score_stream(items), strict=True):
        unread = [0.5] * (len(steps) if by_step else 1)
        found.append(np.array(unread if result.skipped else result.steps if by_step else [result.score]))
    return found


def weak_auc(scorer: Scorer, items: Sequence[Item], labels: Labels) -> dict[str, float]:
    """AUC against labels hardened at 1/2: all that model selection may know. 1/2 if they are of one class."""
    found = auc((np.concatenate(labels) > 0.5).astype(int), np.concatenate(judge(scorer, items)))
    return {"auc": 0.5 if found is None else found}


def _model(base: str | Path, contract: StepContract, settings: FitSettings, layers: int) -> Any:
    model: Any = new_model(base, contract)
    if layers:
        have = AutoConfig.from_pretrained(base).num_hidden_layers
        if not 0 < layers <= have:
            raise ConfigError(f"{layers} layers of a model that has {have}; give 1 to {have}, or 0 for all")
        model.base_model.layers = model.base_model.layers[:layers]
        model.config.num_hidden_layers = layers
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:layers]
    model = with_lora(model, settings.lora, scorer=True)
    if settings.lora.r and in_bf16(settings.bf16):
        store_frozen_in_bf16(model)
    if settings.share_prefixes and not reads_trees(model):
        raise ConfigError(f"share_prefixes: {type(model).__name__} does not read a tree of texts; set it to false")
    return model


class _Logs(TrainerCallback):
    def __init__(self, on_log: Callable[[Mapping[str, float]], None]) -> None:
        self._on_log = on_log

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self._on_log({**logs, "step": state.global_step})
