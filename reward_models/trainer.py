"""The Hugging Face Trainer with our loss, our batch order and our evaluation; everything else is theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from reward_models.dataset import LengthSampler, TokenRows, weight_total
from reward_models.model import is_causal
from reward_models.settings import TrainSettings
from reward_models.shared_prefixes import PrefixSampler
from reward_models.targets import weighted_bce_sum

LOSS_EPSILON = 1e-6  # the paper code's guard against batches without a trained token


class StepTrainer(Trainer):
    """Token-weighted binary cross-entropy, averaged over the whole optimiser step (all micro-batches and processes)."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        rows: TokenRows,
        *,
        settings: TrainSettings,
        evaluate_fn: Callable[[], Mapping[str, Any]] | None,
        on_log: Callable[[Mapping[str, float]], None] | None,
        on_epoch: Callable[[int], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        order: Sampler[int] | None = None,
    ) -> None:
        collate: Callable[..., Any] = partial(rows.collate, causal=is_causal(model))
        if settings.padding_free or settings.share_prefixes:
            collate = rows.pack if settings.padding_free else rows.merge
        # `evaluate` below does not use the evaluation set, but the Trainer insists on one
        super().__init__(model, arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows)  # type: ignore[arg-type]
        self.model_accepts_loss_kwargs = True  # our loss is divided by the weight of the whole step already
        self.evaluate_fn, self.rows, self.settings = evaluate_fn, rows, settings
        self.sampler: Sampler[int] = order or self._own_order()
        for callback in early_stopping(settings.patience):
            self.add_callback(callback)
        self.remove_callback(PrinterCallback)
        if on_log is not None:
            self.add_callback(_Logs(on_log))
        if on_step is not None:
            self.add_callback(Steps(on_step))
        if on_epoch is not None:
            self.add_callback(_Epochs(on_epoch))

    def _own_order(self) -> Sampler[int]:
        def epoch() -> int:
            return int(self.state.epoch or 0)

        rows, settings = self.rows, self.settings
        if settings.share_prefixes:
            return PrefixSampler(rows.ids, self.args.per_device_train_batch_size, settings.seed, epoch)
        return LengthSampler(rows.lengths, settings.batch_size, settings.seed, epoch, settings.group_by_length)

    @property
    def tokens_per_row(self) -> float:
        """Tokens that are read, in the mean of the training rows; one that rows share counts once."""
        if self.settings.share_prefixes and isinstance(self.sampler, PrefixSampler):
            return self.sampler.tokens / len(self.sampler)
        return sum(self.rows.lengths) / len(self.rows.lengths)

    @property
    def divides_weights(self) -> bool:
        """Whether no process holds the whole model (ZeRO-3, FSDP)."""
        plugin = self.accelerator.state.deepspeed_plugin
        return self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.sampler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimiser step, and the sum of their token weights over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        total = weight_total(batches).to(device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total.reshape(1)).sum()
        return batches, total

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """sum(w * BCE) / (sum(w) + 1e-6); times the number of processes, because gradients are averaged over them."""
        labels_BT, weights_BT = inputs.pop("labels"), inputs.pop("weights")
        outputs = model(**inputs)
        total = weights_BT.sum() if num_items_in_batch is None else num_items_in_batch
        loss = weighted_bce_sum(outputs.logits.squeeze(-1), labels_BT, weights_BT) / (total + LOSS_EPSILON)
        loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of `evaluate_fn`. Every process computes all of them: right under any sharding, and no gathering."""
        figures = self.evaluate_fn() if self.evaluate_fn else {}
        logged = {f"{metric_key_prefix}_{name}": value for name, value in figures.items() if isinstance(value, float)}
        self.log(logged)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
        return logged


class _Logs(TrainerCallback):
    def __init__(self, on_log: Callable[[Mapping[str, float]], None]) -> None:
        self._on_log = on_log

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self._on_log({**logs, "step": state.global_step, "max_steps": state.max_steps})


class Steps(TrainerCallback):
    """Calls with the step just finished and the number of all, on the main process."""

    def __init__(self, on_step: Callable[[int, int], None]) -> None:
        self._on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._on_step(state.global_step, state.max_steps)


class _Epochs(TrainerCallback):
    """Calls with the number of the epoch just finished, from 0; a last epoch that is cut short counts as well."""

    def __init__(self, on_epoch: Callable[[int], None]) -> None:
        self._on_epoch = on_epoch

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._on_epoch(math.ceil(round(state.epoch or 0, 6)) - 1)


def early_stopping(patience: int) -> list[TrainerCallback]:
    """Stop after `patience` evaluations without a better one; none for 0."""
    return [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []
