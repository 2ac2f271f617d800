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

from rlhf_e2h.rl.kl import ESTIMATORS
from rlhf_e2h.rl.step_rewards import check_scheme
from rlhf_e2h.runner.config import setting


@dataclass
class PPOSettings:
    """One PPO step samples `rollouts`, then makes `epochs` x `minibatches` optimiser steps on them."""

    steps: int = 30  # PPO steps
    rollouts: int = 128  # completions a step, over all processes
    samples_per_prompt: int = 1
    minibatches: int = 4  # optimiser steps an epoch
    epochs: int = 1  # passes over the rollouts of a step
    micro_batch: int = setting(32, affects_result=False)  # rows at once on one process when training
    forward_batch: int | None = setting(None, affects_result=False)  # rows at once when only evaluating; as micro_batch
    generation_batch: int = setting(512, affects_result=False)  # completions decoded together
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
    ratio_alarm: float | None = setting(0.1, affects_result=False)  # a warning where the mean ratio is further from 1
    # advantage and losses
    gamma: float = 1.0
    lam: float = 1.0
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coef: float = 0.1
    whiten_advantages: bool = True
    # optimisation
    learning_rate: float = 2e-5
    value_learning_rate: float | None = None  # as learning_rate if not given
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup_steps: int = 5  # PPO steps
    final_share: float = 0.01  # of the learning rate, left at the end
    value_only_steps: int = 0  # first steps in which only the value model learns
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    adam_eps: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # of policy and value model each
    checkpoint_every: int = setting(10, affects_result=False)  # PPO steps; 0: never
    save_total_limit: int = setting(1, affects_result=False)  # checkpoints that are kept
    seed: int = 0

    def __post_init__(self) -> None:
        check_scheme(self.step_scheme, self.step_options)
        if self.kl_estimator not in ESTIMATORS:
            raise ValueError(f"kl_estimator {self.kl_estimator!r} is unknown; use one of {', '.join(ESTIMATORS)}")
        positive = ("steps", "rollouts", "samples_per_prompt", "minibatches", "epochs", "micro_batch")
        for name in (*positive, "generation_batch", "max_new_tokens", "save_total_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.forward_batch is not None and self.forward_batch < 1:
            raise ValueError(f"forward_batch is {self.forward_batch}; it must be at least 1, or null for micro_batch")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; PPO needs sampling, so it must be above 0")
        for name in ("minibatches", "samples_per_prompt"):
            if self.rollouts % getattr(self, name):
                raise ValueError(f"rollouts {self.rollouts} do not divide by {name} {getattr(self, name)}; change one")
        if self.importance_cap is not None and self.old_logprobs == "sampler":
            raise ValueError("importance_cap corrects trainer against sampler; it needs old_logprobs: trainer")

    @property
    def prompts_per_step(self) -> int:
        return self.rollouts // self.samples_per_prompt

    @property
    def forward_rows(self) -> int:
        """Rows at once when only evaluating."""
        return self.forward_batch or self.micro_batch

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """(rows, count) of the micro-batches that make up a minibatch on one process.

        Raises:
            ValueError: the global batch does not divide.
        """
        rows = self.rollouts // self.minibatches
        if rows % processes or self.prompts_per_step % processes:
            raise ValueError(
                f"a minibatch has {rows} rows and a step {self.prompts_per_step} prompts; both must divide by "
                f"{processes} processes; change rollouts or minibatches"
            )
        micro = min(self.micro_batch, rows // processes)
        if (rows // processes) % micro:
            raise ValueError(
                f"{rows // processes} rows of a minibatch a process do not divide by micro_batch {micro}; "
                f"use a divisor of {rows // processes}"
            )
        return micro, rows // processes // micro

    def learning_rate_share(self, step: int) -> float:
        """Learning rate at a PPO step as a share of its peak: linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "constant":
            return 1.0
        left = 1 - progress if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.final_share + (1 - self.final_share) * left


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
