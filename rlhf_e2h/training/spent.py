"""Floating-point operations of what a stage has done, by the arithmetic of the plan; tokens are counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlhf_e2h.training.architecture import Architecture, of_config
from rlhf_e2h.training.flops import forward_flops, sampling_flops, training_flops


def architecture(model: Any) -> Architecture:
    """Sizes of a model that is loaded, whatever wraps it, or of a configuration."""
    config = getattr(model, "config", model)
    return _counted(config.model_type, config.to_json_string(use_diff=False))


@lru_cache(maxsize=8)
def _counted(kind: str, text: str) -> Architecture:
    from transformers import AutoConfig

    return of_config("loaded", AutoConfig.for_model(**{**json.loads(text), "model_type": kind}))


def sampling(model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> tuple[int, float]:
    """(tokens, operations) of decoding; a prompt that stands before several completions is read once."""
    once = {tuple(prompt) for prompt in prompts}
    read, written = sum(map(len, once)), sum(map(len, completions))
    if not once or not written:
        return read, 0.0
    per_prompt = len(completions) / len(once)
    flops = sampling_flops(architecture(model), len(once), per_prompt, read / len(once), written / len(completions))
    return read + written, flops


def reward_training(model: Any, tokens: float, rows: float, checkpointing: bool) -> float:
    """Operations of training a token classifier."""
    return training_flops(architecture(model), tokens, tokens / max(rows, 1), 0, checkpointing)


def scoring(model: Any, tokens: float, rows: float) -> float:
    """Operations of reading solutions with a token classifier."""
    return forward_flops(architecture(model), tokens, tokens / max(rows, 1), 0)


def ppo_step(
    policy: Any,
    value_model: Any,
    readers: Sequence[Any],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    settings: Any,
) -> tuple[int, float]:
    """(tokens, operations) of one PPO step: rollout, reward models, reference, old values and updates."""
    _, flops = sampling(policy, prompts, completions)
    written = sum(map(len, completions))
    tokens = sum(map(len, prompts)) + written
    context = tokens / len(completions)
    actor = architecture(policy)
    critic = architecture(value_model) if hasattr(value_model, "config") else actor  # shares the policy's base
    passes = int(settings.has_reference) + int(settings.old_logprobs == "trainer")
    flops += passes * forward_flops(actor, tokens, context, written) + forward_flops(critic, tokens, context, 0)
    flops += sum(forward_flops(architecture(reader), tokens, context, 0) for reader in readers)
    update = training_flops(actor, tokens, context, written, settings.gradient_checkpointing)
    update += training_flops(critic, tokens, context, 0, settings.gradient_checkpointing)
    return tokens, flops + settings.num_ppo_epochs * update
