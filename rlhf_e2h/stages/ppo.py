"""Optimise a policy with PPO on problems of all levels, against reward models trained on easy ones.

Easy problems may also be rewarded by the checker (`outcome: easy`); hard ones get the reward model only. With
`outcome: full`, allowed in stages named `full` or `dagger`, the checker rewards all levels: a baseline.

Reads a policy, a `prepare` stage and reward models; writes a model folder, metrics.jsonl and rollouts.jsonl. A killed
stage resumes from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from reward_models.lora import four_bit, with_lora
from reward_models.model import freeze_parts
from reward_models.one_reader import one_rank_reads
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.data.levels import choose
from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.parallel.sharding import rounded
from rlhf_e2h.rl.engine_settings import EngineSettings
from rlhf_e2h.rl.engines import open_engine
from rlhf_e2h.rl.inputs import gives_reward, open_prompts, open_sources
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.reward_path import RewardPath
from rlhf_e2h.rl.share_base import keep_policy_adapter, share_base
from rlhf_e2h.rl.shared_models import open_base, share_models
from rlhf_e2h.rl.sources import RewardSources
from rlhf_e2h.rl.terms import RewardTerms
from rlhf_e2h.rl.value_model import train_parts, value_from_policy, value_from_reward_model
from rlhf_e2h.rl.watcher import Validation, Watcher
from rlhf_e2h.runner.config import ConfigError, Input, setting
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Row
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.lengths import report_unfinished
from rlhf_e2h.training.mixing import MixtureSettings, build_sampler, weight_metrics
from rlhf_e2h.training.models import DTYPES, Policy, open_policy, save_policy
from rlhf_e2h.training.precision import hold_frozen, training_dtype

VERSION = 4
TRAITS = Traits(
    order=100,
    about="optimise a policy with PPO against reward models",
    trains=True,
    distributed=True,
    tiny={"eval_steps": 1},
)


@dataclass(kw_only=True)
class Config(PPOSettings):
    """Settings of the `ppo` stage; `seed` is that of the run."""

    policy: Input  # model to start from; also the reference
    data: Input  # output of a prepare stage
    reward_model: Input | None = None  # PRM, OPRM or ORM that scores steps
    outcome_model: Input | None = None  # a second one, whose whole score is added on the last token
    outcome_model_scale: float = 1.0
    outcome: Literal["none", "easy", "full"] = "easy"  # whose answers the checker may reward
    levels: list[int] | None = None  # prompts of these levels; all if not given
    problems: int | None = None  # at most N prompts
    # skills of each step's prompts, the weights logged; not with weights that follow losses (doremi, skill_it)
    mixture: MixtureSettings | None = None
    empty_step_score: float | None = 0.0  # instead of the model's score of a step without text; null keeps that
    answer_step: bool = True  # is the answer section scored as a step? (not in the paper's code)
    terms: RewardTerms = field(default_factory=RewardTerms)  # a Python function, length, format
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)  # what samples: hf or vllm
    # what the value model starts from: the reward model, the same with a zero head, or the policy with a zero head
    value_init: Literal["reward", "reward_zero_head", "policy"] = "reward"
    value_head_only: bool = False  # train only the value model's head: cheaper, less exact
    # policy, value model, reference and, where they were trained on the same base, reward models as adapters of one
    # base that is held once; needs lora
    share_base: bool = False
    # greedy accuracy on easy validation problems; 0: never
    eval_steps: int = 0  # PPO steps
    eval_problems: int = 200
    patience: int = 0  # evaluations without a better one before training ends; 0: no early stop
    keep: Literal["last", "best"] = "last"  # weights written at the end; best on easy validation needs eval_steps
    dump: int = setting(4, affects_result=False)  # rollouts a step written to rollouts.jsonl
    reward_batch_tokens: int = setting(8192, affects_result=False)  # tokens the reward model reads at once

    def __post_init__(self) -> None:
        super().__post_init__()
        if not gives_reward(self):
            raise ValueError("nothing gives a reward; set reward_model, outcome_model, outcome or terms")
        if self.engine.name != "hf" and self.old_logprobs == "sampler":
            raise ValueError(
                f"engine {self.engine.name} has log-probabilities of its own; set old_logprobs: trainer, and "
                "importance_cap: 2 to correct for the difference"
            )
        if self.reward_model is None and self.value_init != "policy":
            raise ValueError(f"value_init {self.value_init!r} needs reward_model; set value_init: policy")
        if self.share_base and self.lora.r < 1:
            raise ValueError("share_base needs lora.r above 0: policy and value model are adapters of one base")
        if self.load_in_4bit and self.share_base:
            raise ValueError(
                "load_in_4bit does not go with share_base: adapters are put on the weights that they were trained on, "
                "and those in 4 bits are others; set one of them to false"
            )
        if self.load_in_4bit and self.engine.name != "hf":
            raise ValueError(
                f"load_in_4bit needs engine name hf, found {self.engine.name}: weights in 4 bits cannot be handed over"
            )
        if self.mixture and self.mixture.adaptive:
            raise ValueError(
                f"mixture.weights {self.mixture.weights!r} follows losses of an sft stage; use another here"
            )
        if (self.keep == "best" or self.patience) and not self.eval_steps:
            raise ValueError("keep: best and patience compare evaluations; set eval_steps")


def main(config: Config, run: StageRun) -> None:
    accelerator = start_accelerator(config.bf16)
    path = run.path(config.policy)
    # DeepSpeed trains a bf16 model in bf16 whatever it was opened in; as it is stored, the ranks of a machine share it
    dtype = "bfloat16" if rounded(accelerator) else training_dtype(path, config)
    policy, start = (
        open_base(path, config.format)  # on every rank, as adapters are checked against its values
        if config.share_base
        else (_open_trained(path, dtype, config.format, four_bit(config)), None)
    )
    run.use_format(policy.text_format, policy.why)
    limit = policy.limit(config.max_new_tokens)
    settings = dataclasses.replace(config, seed=run.seed, max_new_tokens=limit)
    prompts = open_prompts(config, run, policy, config.max_new_tokens)
    choose_rows = _sampler(config, run, prompts, settings)
    reference = _open_trained(path, _frozen(accelerator)).model if config.holds_reference else None
    value_model: Any
    scorers = None
    if config.share_base:
        value_model, scorers = share_models(config, run, policy, start, accelerator.device)
    else:
        value_model = _value_model(config, run, policy, _frozen(accelerator))
        value_model = train_parts(value_model, config.value_head_only, config.lora)
        policy.model = with_lora(policy.model, config.lora)
    for model in (policy.model, value_model):
        freeze_parts(model, config.freeze_embeddings, config.freeze_norms)
    for model in (policy.model, value_model) if config.lora.r else ():
        # reward models on a shared base are read outside autocast
        hold_frozen(model, config.bf16, always_autocast=not config.share_base)
    if reference is not None:
        # its states stay float32, as the policy's do: a rounded reference would be away from it at the first step
        hold_frozen(reference.requires_grad_(False), config.bf16, linear_only=True)
    if config.gradient_checkpointing and not config.share_base:
        for model in (policy.model, value_model):
            model.gradient_checkpointing_enable()
    with contextlib.ExitStack() as stack:
        checker = stack.enter_context(CheckerPool()) if config.outcome != "none" or config.eval_steps else None
        rewards = open_sources(config, run, checker, accelerator.device, scorers, policy.text_format)
        bar = stack.enter_context(run.progress(settings.steps, run.name, "steps"))
        validation = _validation(config, run, checker, policy, rewards)
        reward_path = RewardPath(rewards, policy.model if config.share_base else None, accelerator)
        watcher = Watcher(config, run, policy, reward_path, bar, validation, value_model, accelerator)
        engine = stack.enter_context(contextlib.closing(open_engine(config.engine, policy.model, policy.tokenizer)))
        result = train_ppo(
            policy.model, reference, value_model, policy.tokenizer, prompts, reward_path, settings, accelerator,
            watcher.on_step, run.scratch / "checkpoints", engine, choose_rows,
        )  # fmt: skip
    watcher.spend()
    if run.is_main:
        if result.policy_weights is not None:  # ZeRO, FSDP: the policy here is a part of one, or a rounding
            policy.model = _start(config, path)
            # those of the other adapters of a shared base are left out
            policy.model.load_state_dict({name: result.policy_weights[name] for name in policy.model.state_dict()})
        watcher.restore_best()
        if config.share_base:
            keep_policy_adapter(policy.model)
        save_policy(policy.model, policy.tokenizer, run.out, policy.text_format)
    report_unfinished(run, config.max_new_tokens)
    run.finish(steps=result.steps, stopped=result.stopped, **watcher.results())


def _open_trained(path: Path, dtype: str, text_format: FormatSettings | None = None, bits: Any = None) -> Policy:
    """A policy that is sharded before it computes anything."""
    with one_rank_reads():
        return open_policy(path, dtype, text_format=text_format, quantization=bits)


def _frozen(accelerator: Accelerator) -> str:
    """Precision in which value model and reference are opened."""
    return "bfloat16" if rounded(accelerator) else "float32"


def _start(config: Config, path: Path) -> Any:
    """The policy as it was before training: all of it, or with its adapter."""
    if not config.share_base:
        return with_lora(open_policy(path).model, config.lora)
    base, start = open_base(path)
    model, _ = share_base(base.model, config.lora, start)
    keep_policy_adapter(model)
    return model


def _sampler(
    config: Config, run: StageRun, prompts: list[Row], settings: PPOSettings
) -> Callable[[int], list[int]] | None:
    """The prompts of a step under `mixture`: a function of seed and step, so that a resumed run sees the same ones."""
    if config.mixture is None:
        return None
    sampler = build_sampler(config.mixture, prompts, settings.prompts_per_step, settings.steps, run.seed)

    def choose(step: int) -> list[int]:
        if run.is_main:
            run.log(weight_metrics(sampler, step), step=step)
        return sampler.indices(step)

    return choose


def _value_model(config: Config, run: StageRun, policy: Policy, dtype: str) -> Any:
    bits = four_bit(config, scorer=True)
    with one_rank_reads():
        if config.value_init == "policy":
            return value_from_policy(str(policy.model.config.name_or_path), DTYPES[dtype], bits)
        assert config.reward_model is not None  # checked by Config
        path, zero_head = run.path(config.reward_model), config.value_init == "reward_zero_head"
        return value_from_reward_model(path, policy.tokenizer, zero_head, DTYPES[dtype], bits)


def _validation(
    config: Config, run: StageRun, checker: CheckerPool | None, policy: Policy, rewards: RewardSources
) -> Validation | None:
    if not config.eval_steps:
        return None
    data = run.path(config.data)
    labels = run.labels(data, "easy", splits=("validation",))
    known = [row for row in read_problems(data, "validation") if row["problem_id"] in labels]
    if not known:
        raise ConfigError(f"{run.name}: eval_steps is set, but prepare wrote no easy validation problems")
    chosen = choose(known, None, config.eval_problems)
    rows = [{**row, "prompt": policy.prompt(row["problem"])} for row in chosen]
    return Validation(rows, RewardSources(labels, checker, rewards.step_model, text_format=policy.text_format))
