"""Baselines: optimise a policy with GRPO or RLOO, by TRL's trainers, on the rewards that PPO gets.

Both compare several completions of one prompt with each other instead of training a value model, and take one number a
completion: the step rewards of the named scheme, outcome, penalties and terms, added up. Sources of reward, the
firewall and the settings of shaping are those of the `ppo` stage. Shao et al. 2024 (arXiv 2402.03300); Ahmadian et
al. 2024 (arXiv 2402.14740). Writes a model folder and metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from reward_models.lora import four_bit, lora_config
from reward_models.model import freeze_parts
from reward_models.one_reader import one_rank_reads
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.rl.endings import end_tokens, token_limit
from rlhf_e2h.rl.inputs import gives_reward, open_prompts, open_sources
from rlhf_e2h.rl.rewards import Completion, RewardFn, call_reward_fn, sequence_rewards
from rlhf_e2h.rl.step_rewards import check_scheme
from rlhf_e2h.rl.terms import RewardTerms
from rlhf_e2h.runner.config import Input, setting
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Row
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.arguments import TrainingSettings, trained, trainer_arguments
from rlhf_e2h.training.encoded_trainers import online_trainer
from rlhf_e2h.training.lengths import report_unfinished
from rlhf_e2h.training.models import Policy, open_policy, save_policy
from rlhf_e2h.training.precision import hold_frozen

VERSION = 3
TRAITS = Traits(
    order=130,
    about="baseline: optimise a policy with GRPO or RLOO on the rewards of PPO (TRL)",
    trains=True,
    distributed=True,
)


@dataclass
class GRPOTraining(TrainingSettings):
    """Of GRPO; RLOO takes the same settings."""

    ARGUMENTS: ClassVar[str] = "trl.GRPOConfig"

    learning_rate: float = 1e-6
    batch_size: int = 64  # completions


@dataclass
class RLOOTraining(GRPOTraining):
    """What `training` becomes under algorithm: rloo."""

    ARGUMENTS: ClassVar[str] = "trl.RLOOConfig"


@dataclass
class Config:
    """Settings of the `grpo` stage; what is about rewards means the same as in `ppo`."""

    policy: Input  # model to start from; also the reference
    data: Input  # output of a prepare stage
    reward_model: Input | None = None  # PRM, OPRM or ORM that scores steps
    outcome_model: Input | None = None  # a second one, whose whole score is added
    outcome_model_scale: float = 1.0  # times that score
    outcome: Literal["none", "easy", "full"] = "easy"  # whose answers the checker may reward
    levels: list[int] | None = None  # prompts of these levels; all if not given
    problems: int | None = None  # at most N prompts
    empty_step_score: float | None = 0.0  # instead of the model's score of a step without text; null keeps that
    answer_step: bool = True  # is the answer scored as a step?
    terms: RewardTerms = field(default_factory=RewardTerms)  # further rewards: a Python function, length, format
    step_scheme: str = "terminal"  # of the steps' rewards only the sum counts here
    step_options: dict[str, float | str | bool] = field(default_factory=dict)  # of the scheme
    step_scale: float = 1.0  # times the step rewards; 0 switches them off
    outcome_scale: float = 1.0  # times the outcome
    outcome_unlabelled: float = 0.0  # outcome where none is known
    unfinished_penalty: float = 1.0  # lost by a completion without end of sequence
    algorithm: Literal["grpo", "rloo"] = "grpo"  # what a completion is compared with: the group's mean, or the others'
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo"] = "dapo"  # GRPO only: how tokens are averaged
    scale_rewards: Literal["group", "batch", "none"] = "group"  # GRPO only: whose standard deviation divides advantages
    beta: float = 0.0  # weight of the KL to the reference; above 0 the reference is held in memory
    epsilon: float = 0.2  # of the ratio, below and above 1
    num_iterations: int = 1  # passes over the completions of a step
    num_generations: int = 8  # completions a prompt; training.batch_size, in completions, is a multiple of it
    temperature: float = 1.0  # of sampling
    top_k: int = 0  # 0: all tokens
    max_new_tokens: int = 256  # of a completion
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings)
    training: GRPOTraining = field(default_factory=GRPOTraining)
    reward_batch_tokens: int = setting(8192, affects_result=False)  # tokens the reward model reads at once

    def __post_init__(self) -> None:
        if self.algorithm == "rloo":
            self.training = RLOOTraining(**vars(self.training))
        check_scheme(self.step_scheme, self.step_options)
        if not gives_reward(self):
            raise ValueError("nothing gives a reward; set reward_model, outcome_model, outcome or terms")
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations is {self.num_generations}; a completion is compared with others: at least 2"
            )
        if self.training.batch_size % self.num_generations:
            raise ValueError(
                f"training.batch_size {self.training.batch_size} counts completions and is not a multiple of "
                f"num_generations {self.num_generations}; change one of them"
            )


def main(config: Config, run: StageRun) -> None:
    bits = four_bit(config.training)
    with one_rank_reads():
        policy = open_policy(run.path(config.policy), text_format=config.format, quantization=bits)
    run.use_format(policy.text_format, policy.why)
    prompts = open_prompts(config, run, policy, config.max_new_tokens)
    # before there is a trainer that would choose this process's GPU
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    with contextlib.ExitStack() as stack:
        checker = stack.enter_context(CheckerPool()) if config.outcome != "none" else None
        sources = open_sources(config, run, checker, device, None, policy.text_format)
        reward = SummedReward(sources, config, end_tokens(policy.tokenizer))
        trainer = _trainer(config, run, policy, prompts, reward)
        model, metrics = trained(trainer, run, f"{config.algorithm.upper()}: training")
    if run.is_main:
        save_policy(model, policy.tokenizer, run.out, policy.text_format)
    report_unfinished(run, config.max_new_tokens)
    run.finish(steps=trainer.state.global_step, loss=metrics["train_loss"], reward=reward.last_mean)


class SummedReward:
    """Our reward sources as one of TRL's reward functions: a number a completion."""

    __name__ = "summed"  # TRL logs it under this name

    def __init__(self, sources: RewardFn, config: Config, ends: frozenset[int]) -> None:
        self.sources, self.config, self.ends = sources, config, ends
        self.last_mean = 0.0

    def __call__(
        self,
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        problem_id: Sequence[str],
        problem: Sequence[str],
        level: Sequence[int | None],
        log_metric: Any = None,
        **_: Any,
    ) -> list[float]:
        columns = zip(completions, completion_ids, problem_id, problem, level, strict=True)
        seen = [
            Completion(
                {"problem_id": name, "problem": text, "level": of}, answer, any(one in self.ends for one in ids), ids
            )
            for answer, ids, name, text, of in columns
        ]
        rewards = call_reward_fn(self.sources, seen)
        values = sequence_rewards(rewards, [completion.finished for completion in seen], self.config)
        if log_metric is not None:
            log_metric("rollout/unfinished", sum(not completion.finished for completion in seen) / len(seen))
            for name in sorted({name for reward in rewards for name in reward.extras}):
                known = [reward.extras[name] for reward in rewards if name in reward.extras]
                log_metric(f"reward/{name}", sum(known) / len(known))
        self.last_mean = sum(values) / len(values)
        return values


def _trainer(config: Config, run: StageRun, policy: Policy, prompts: Sequence[Row], reward: SummedReward) -> Any:
    from datasets import Dataset

    model, tokenizer = policy.model, policy.tokenizer
    unknown = list(range(token_limit(tokenizer), model.config.vocab_size))
    own: dict[str, Any] = {"generation_kwargs": {"suppress_tokens": unknown}} if unknown else {}
    if config.algorithm == "grpo":
        own |= {"loss_type": config.loss, "scale_rewards": config.scale_rewards}
    arguments = trainer_arguments(
        config.training,
        run,
        logging_steps=1,
        include_num_input_tokens_seen="no",  # a batch here is rows, not tokens
        num_generations=config.num_generations,
        max_completion_length=policy.limit(config.max_new_tokens),
        temperature=config.temperature,
        top_k=config.top_k,
        beta=config.beta,
        epsilon=config.epsilon,
        num_iterations=config.num_iterations,
        **own,
    )
    freeze_parts(model, config.training.freeze_embeddings, config.training.freeze_norms)
    columns = ("prompt", "problem_id", "problem", "level")
    trainer = online_trainer(config.algorithm)(
        model=model,
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list([{name: row[name] for name in columns} for row in prompts]),
        processing_class=tokenizer,
        peft_config=lora_config(config.training.lora),
    )
    if config.training.load_in_4bit:
        hold_frozen(trainer.model, config.training.bf16)
    return trainer
