"""What the stages that optimise a policy on its own samples (ppo, grpo) read: prompts and sources of reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from reward_models.score import Scorer
from reward_models.settings import LoraSettings
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.data.levels import choose
from rlhf_e2h.encoding import check_context, encode_prompts
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.rl.sources import RewardSources
from rlhf_e2h.rl.terms import RewardTerms
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.samples.bank import Row
from rlhf_e2h.training.models import DTYPES, Policy
from rlhf_e2h.training.precision import sampling_dtype


class RewardConfig(Protocol):
    """The settings of such a stage that are about prompts and rewards; `stages.ppo.Config` documents each."""

    data: str
    reward_model: str | None
    outcome_model: str | None
    outcome_model_scale: float
    outcome: Any
    levels: list[int] | None
    problems: int | None
    empty_step_score: float | None
    answer_step: bool
    terms: RewardTerms
    reward_batch_tokens: int


class PolicyConfig(RewardConfig, Protocol):
    """And those of PPO that are about its models and what is watched beside it."""

    steps: int
    max_new_tokens: int
    generation_batch: int
    kl_stop: float | None
    lora: LoraSettings
    gradient_checkpointing: bool
    share_base: bool
    value_init: Any
    value_head_only: bool
    eval_steps: int
    patience: int
    keep: Any
    dump: int


def gives_reward(config: RewardConfig) -> bool:
    """Whether any source of reward is set."""
    functions = config.terms != RewardTerms()
    return config.reward_model is not None or config.outcome_model is not None or config.outcome != "none" or functions


def open_prompts(config: RewardConfig, run: StageRun, policy: Policy, max_new_tokens: int) -> list[Row]:
    """Train problems with their `prompt`.

    Raises:
        ConfigError: no problem of these levels, or prompts that do not fit the model, by id.
    """
    problems = choose(read_problems(run.path(config.data), "train"), config.levels, config.problems)
    if not problems:
        raise ConfigError(f"{run.name}: no train problems of levels {config.levels}; check `levels` and prepare")
    rows = [{**problem, "prompt": policy.prompt(problem["problem"])} for problem in problems]
    encoded = encode_prompts(policy.tokenizer, [row["prompt"] for row in rows])
    check_context(run.name, policy.model, encoded, policy.limit(max_new_tokens), [row["problem_id"] for row in rows])
    return rows


def open_sources(
    config: RewardConfig,
    run: StageRun,
    checker: CheckerPool | None,
    device: torch.device,
    loaded: Mapping[str, Scorer] | None = None,
    text_format: TextFormat = SECTIONS,
) -> RewardSources:
    """Reward models on `device`, labels through the firewall, and the terms of the config.

    `loaded` has reward models, by the config's name for them, that need not be loaded again.
    """

    def load(reference: str | None) -> Scorer | None:
        if reference is None:
            return None
        if loaded and reference in loaded:
            return loaded[reference]
        path = run.path(reference)
        dtype = DTYPES[sampling_dtype(path)]
        return Scorer.from_pretrained(path, device, dtype, config.reward_batch_tokens)

    data = run.path(config.data)
    labels = {} if config.outcome == "none" else run.labels(data, config.outcome, splits=("train",))
    return RewardSources(
        labels,
        checker,
        load(config.reward_model),
        load(config.outcome_model),
        config.outcome_model_scale,
        config.empty_step_score,
        config.answer_step,
        text_format,
        terms=config.terms,
    )
