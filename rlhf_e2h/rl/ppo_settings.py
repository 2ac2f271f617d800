"""Settings of PPO, checked before anything is loaded, and what follows from (settings, step) alone.

Learning rate, prompt order and random seeds are functions of the step, not of what happened before: a resumed run needs
no random state, and comes out the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from reward_models.settings import AT_ONCE, OptimisationSettings, neutral
from rlhf_e2h.rl.kl import ESTIMATORS
from rlhf_e2h.rl.step_rewards import check_scheme
from rlhf_e2h.runner.config import setting


@dataclass
class PPOSettings(OptimisationSettings):
    """One PPO step samples `rollouts`, then makes `num_ppo_epochs` x `num_mini_batches` optimiser steps on them."""

    learning_rate: float = 2e-5
    lr_scheduler_type: Literal["cosine", "constant", "linear"] = "cosine"
    warmup_steps: float = 5.0  # PPO steps; below 1 it is a share of all
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-5
    # QLoRA: frozen weights of policy and value model in 4 bits; needs lora.r above 0 and bitsandbytes
    load_in_4bit: bool = setting(False, added=True)
    save_steps: int = neutral(10)  # PPO steps between checkpoints; 0: none

    steps: int = 30  # PPO steps
    rollouts: int = 128  # completions a step, over all processes
    samples_per_prompt: int = 1
    num_mini_batches: int = 4  # optimiser steps an epoch
    num_ppo_epochs: int = 1  # passes over the rollouts of a step
    forward_batch: int | None = neutral(None)  # rows at once when only evaluating; as per_device_train_batch_size
    generation_batch: int = neutral(512)  # completions decoded together
    # sampling; no top-k, since the ratio is taken against the distribution that was sampled
    temperature: float = 1.0
    max_new_tokens: int = 256
    # trainer: log-probabilities of the sampled tokens are computed again; sampler: those of the sampler are taken,
    # which saves a forward pass and is exact in float32 (rollout/logprob_diff_mean says how exact)
    old_logprobs: Literal["trainer", "sampler"] = "trainer"
    # with trainer: truncated importance weights pi_trainer / pi_sampler, at most this
    importance_cap: float | None = None
    # reward: r_t = step reward + outcome + penalty - kl_coef * kl_t
    step_scheme: str = "min_decrement"  # terminal, sum, min_decrement, prod_decrement, min_form, potential
    step_options: dict[str, float | str | bool] = field(default_factory=dict)  # of the scheme, e.g. {bonus: 0.25}
    step_scale: float = 1.0  # times the step rewards; 0 switches them off
    outcome_scale: float = 1.0  # times the outcome, on the last token
    outcome_unlabelled: float = 0.0  # outcome where none is known (the paper's code: 0.25)
    unfinished_penalty: float = 1.0  # taken off on the last token of a completion without end of sequence
    whiten_rewards: bool = False  # divide rewards by their standard deviation; the mean stays (AlpacaFarm)
    # KL to the reference
    kl_coef: float = 0.01
    kl_estimator: str = "k1"  # k1, k2, k3
    kl_target: float | None = None  # nats a completion; given, the coefficient adapts
    kl_horizon: float = 10_000.0  # rollouts
    kl_alarm: float | None = None  # a warning above this many nats a completion
    kl_stop: float | None = None  # training ends above this many nats a completion
    ratio_alarm: float | None = neutral(0.1)  # a warning where the mean ratio is further from 1
    # advantage and losses
    gamma: float = 1.0
    lam: float = 1.0
    cliprange: float = 0.2
    cliprange_value: float | None = 0.2
    vf_coef: float = 0.1
    whiten_advantages: bool = True
    # optimisation
    value_learning_rate: float | None = None  # as learning_rate if not given
    min_lr_rate: float = 0.01  # of the learning rate, left at the end
    value_only_steps: int = 0  # first steps in which only the value model learns
    seed: int = 0  # in a stage that of the run takes its place

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scheme(self.step_scheme, self.step_options)
        if self.kl_estimator not in ESTIMATORS:
            raise ValueError(f"kl_estimator {self.kl_estimator!r} is unknown; use one of {', '.join(ESTIMATORS)}")
        positive = ("steps", "rollouts", "samples_per_prompt", "num_mini_batches", "num_ppo_epochs")
        for name in (*positive, "generation_batch", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.forward_batch is not None and self.forward_batch < 1:
            raise ValueError(
                f"forward_batch is {self.forward_batch}; it must be at least 1, or null for that of training"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; PPO needs sampling, so it must be above 0")
        for name in ("num_mini_batches", "samples_per_prompt"):
            if self.rollouts % getattr(self, name):
                raise ValueError(f"rollouts {self.rollouts} do not divide by {name} {getattr(self, name)}; change one")
        if self.importance_cap is not None and self.old_logprobs == "sampler":
            raise ValueError("importance_cap corrects trainer against sampler; it needs old_logprobs: trainer")

    @property
    def has_reference(self) -> bool:
        """Whether log-probabilities of a reference are computed; with adapters it is the policy without them."""
        return self.kl_coef != 0 or self.lora.r > 0

    @property
    def holds_reference(self) -> bool:
        """Whether the reference is a model of its own."""
        return self.kl_coef != 0 and self.lora.r == 0

    @property
    def prompts_per_step(self) -> int:
        return self.rollouts // self.samples_per_prompt

    @property
    def forward_rows(self) -> int:
        """Rows at once when only evaluating."""
        return self.forward_batch or self.per_device_train_batch_size or AT_ONCE

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """(rows, count) of the micro-batches that make up a minibatch on one process.

        Raises:
            ValueError: the global batch does not divide.
        """
        rows = self.rollouts // self.num_mini_batches
        if rows % processes or self.prompts_per_step % processes:
            raise ValueError(
                f"a minibatch has {rows} rows and a step {self.prompts_per_step} prompts; both must divide by "
                f"{processes} processes; change rollouts or num_mini_batches"
            )
        micro = self.rows_at_once(rows // processes)
        return micro, rows // processes // micro

    def learning_rate_share(self, step: int) -> float:
        """Learning rate at a PPO step as a share of its peak: linear warm-up, then the schedule."""
        warmup = int(self.warmup_steps) if self.warmup_steps >= 1 else math.ceil(self.warmup_steps * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        if self.lr_scheduler_type == "constant":
            return 1.0
        left = 1 - progress if self.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.min_lr_rate + (1 - self.min_lr_rate) * left


def derived_seed(*parts: int | str) -> int:
    """A seed for one purpose; unlike sums of seeds, different parts never give the same one."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def prompt_indices(step: int, count: int, prompts: int, seed: int) -> list[int]:
    """Indices of the `count` prompts of a step: all prompts in random order, then all again in another order."""
    indices: list[int] = []
    while len(indices) < count:
        epoch, position = divmod(step * count + len(indices), prompts)
        order = torch.randperm(prompts, generator=torch.Generator().manual_seed(derived_seed(seed, "prompts", epoch)))
        indices += order[position : position + count - len(indices)].tolist()
    return indices


def check_prompts(prompts: Sequence[object]) -> None:
    if not prompts:
        raise ValueError("there are no prompts; PPO needs at least one")
