"""The rollouts of one PPO step with what the updates need, and the model passes that compute it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_e2h.parallel.sharding import whole_weights
from rlhf_e2h.rl.actor_critic import RolloutBatch, reference_logprobs
from rlhf_e2h.rl.share_base import as_reference
from rlhf_e2h.rl.trainer import Trainer


@dataclass
class Experience:
    """The rollouts of one step with everything that the updates need, (B, T) each."""

    batch: RolloutBatch
    old_logprobs: Tensor  # what the trainer says (or the sampler, see settings.old_logprobs)
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor | None  # truncated importance weights


def evaluate(trainer: Trainer, batch: RolloutBatch, sampled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T) log-probabilities, entropies and values under the weights that sampled; 0 at padding."""
    settings = trainer.settings
    values_only = settings.old_logprobs == "sampler"

    def outputs(rows: Tensor) -> tuple[Tensor, ...]:
        found = trainer.model(batch, rows, settings.temperature, values_only)
        return (found.values,) if values_only else (found.logprobs, found.entropy, found.values)

    results = _divide(trainer, batch, outputs, 1 if values_only else 3)
    return (sampled, torch.zeros_like(sampled), results[0]) if values_only else (results[0], results[1], results[2])


def evaluate_reference(trainer: Trainer, batch: RolloutBatch, logprobs: Tensor) -> Tensor:
    """(B, T) log-probabilities under the reference; `logprobs` themselves where there is none."""
    adapted: Any = trainer.bare.policy
    contexts = contextlib.ExitStack()
    model: nn.Module = adapted
    if trainer.reference is not None:
        model = trainer.reference
    elif hasattr(adapted, "disable_adapter"):  # a PEFT model; importing PEFT to ask its class would take a second
        # whole, because DeepSpeed's hooks know the passes of the engine only, and this one is beside it
        contexts.enter_context(whole_weights(adapted, trainer.accelerator))
        contexts.enter_context(as_reference(adapted))
    else:
        return logprobs  # no reference: KL is 0

    def outputs(rows: Tensor) -> tuple[Tensor, ...]:
        return (reference_logprobs(model, batch, rows, trainer.settings.temperature, trainer.bare.limit),)

    with contexts, trainer.accelerator.autocast():
        return _divide(trainer, batch, outputs, 1)[0]


def _divide(
    trainer: Trainer, batch: RolloutBatch, outputs: Callable[[Tensor], tuple[Tensor, ...]], count: int
) -> list[Tensor]:
    """Run `outputs` on this process's share of the rows, a chunk at a time; returns the (B, T) results of all."""
    accelerator, mask = trainer.accelerator, batch.mask
    results = [torch.zeros(mask.shape, device=mask.device) for _ in range(count)]
    rows = batch.share(
        torch.arange(len(mask), device=mask.device), accelerator.process_index, accelerator.num_processes
    )
    for chunk in batch.chunks(rows, trainer.settings.forward_rows):
        for result, found in zip(results, outputs(chunk), strict=True):
            width = found.shape[1]
            result[chunk, :width] = torch.where(mask[chunk, :width], found, 0.0)
    # each row was filled in by one process and is 0 in the others
    return [accelerator.reduce(result, "sum") for result in results] if accelerator.num_processes > 1 else results
