"""What each stage of a recipe will hold and compute, from its settings alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.samples import bank
from rlhf_e2h.tools.plan import data
from rlhf_e2h.tools.plan.common import (
    Phases,
    StagePlan,
    model_of,
    sample_count,
    sampling_phase,
    trained_model,
    trained_rows,
    trainer_phases,
)
from rlhf_e2h.tools.plan.data import Numbers
from rlhf_e2h.tools.plan.memory import SCORING, Form, Trained
from rlhf_e2h.tools.plan.phases import Phase, scoring
from rlhf_e2h.tools.plan.policies import plan_dpo, plan_grpo, plan_ppo, plan_rest
from rlhf_e2h.tools.plan.thoughts import with_thoughts
from rlhf_e2h.training.architecture import Architecture
from rlhf_e2h.training.flops import forward_flops, sampling_flops, training_flops


def plan_stage(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan | None:
    """The plan of a stage; None for one that runs no model, or whose kind has no plan yet.

    Raises:
        ConfigError: a model whose architecture cannot be read.
    """
    make = _PLANS.get(spec.kind)
    return make(recipe, *with_thoughts(recipe, spec, numbers)) if make else None


def _pretrain(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan | None:
    config = spec.config
    if config.training.max_steps <= 0:
        return None
    model = model_of(recipe, f"@{spec.name}")
    length = numbers.prompt + numbers.solution
    tokens = trained_rows(config.training, 0) * length
    phases = partial(trainer_phases, config.training, Trained(model), {}, 1)
    return StagePlan(spec.name, spec.kind, model.name, tokens, training_flops(model, tokens, length), phases)


def _sft(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    if config.targets == "steps":  # on average after half of the solution, and a tenth of it is trained
        examples = data.step_targets(recipe, config.data, config.labels, numbers)
        length, trained = numbers.prompt + numbers.solution / 2, numbers.solution / 10
    else:
        examples = data.easy_labels(recipe, config.data, config.labels, numbers)
        length, trained = numbers.prompt + numbers.solution, numbers.solution
    length = min(length, config.training.max_length)
    tokens = trained_rows(config.training, min(examples, config.limit or examples)) * length
    head = tokens * trained / length
    flops = training_flops(model, tokens, length, head, config.training.gradient_checkpointing)
    phases = partial(trainer_phases, config.training, trained_model(model, config.training), {}, 1)
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases, trains=True)


def _reward(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.base)
    records = 0
    if config.graded:
        grade = recipe.stages[config.graded[1:].split("/")[0]]
        records += sample_count(recipe, recipe.stages[grade.config.samples[1:].split("/")[0]], numbers)
    if config.records:
        records += data.stepwise(recipe, config.records, numbers)
    if config.reference_solutions:
        records += data.easy_labels(recipe, config.data, "easy", numbers)
    settings = config.training
    records = min(records, config.limit or records)
    length = min(numbers.prompt + numbers.solution, settings.max_length)
    tokens = trained_rows(settings, records * (1 - config.held_out)) * length
    if settings.share_prefixes and not config.graded:  # a micro-batch is one text, and of each other one its last step
        rows = settings.rows_at_once(settings.batch_size)
        ends = (rows - 1) * numbers.solution / 10
        tokens *= (length + ends) / (rows * length)
        settings = replace(
            settings,
            batch_size=settings.batch_size // rows,
            per_device_train_batch_size=1,
            max_length=round(settings.max_length + ends),
        )
    flops = training_flops(model, tokens, length, 0, settings.gradient_checkpointing)
    trained = trained_model(model, settings, scorer=True)
    phases = partial(trainer_phases, settings, trained, {}, 1)
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases, trains=True)


def _sample(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    count = sample_count(recipe, spec, numbers)
    decode = config.decoding
    solution = min(numbers.solution, decode.max_new_tokens)
    tokens = count / decode.n * numbers.prompt + count * solution
    flops = sampling_flops(model, count / decode.n, decode.n, numbers.prompt, solution)

    def phases(form: Form, memory: float) -> Phases:
        return [_loaded(model), sampling_phase("sampling", model, decode, count, numbers, memory)]

    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases)


def _rerank(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config = spec.config
    models = [model_of(recipe, reference) for reference in config.reward_models.values()]
    length = numbers.prompt + numbers.solution
    tokens = sample_count(recipe, recipe.stages[config.samples[1:].split("/")[0]], numbers) * length
    flops = sum(forward_flops(model, tokens, length, 0) for model in models)
    model = max(models, key=lambda m: m.parameters)
    weights = {"weights": SCORING * model.scorer_parameters}

    def phases(form: Form, memory: float) -> Phases:
        return [_loaded(model), scoring(model, config.max_tokens_per_batch, weights)]

    return StagePlan(spec.name, spec.kind, model.name, tokens * len(models), flops, phases)


def _evaluate(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config = spec.config
    models = [model_of(recipe, reference) for reference in config.policies.values()]
    count = data.problems(recipe, config.data, "test", None, None, numbers)
    solution = min(numbers.solution, config.max_new_tokens)
    tokens = len(models) * count * (numbers.prompt + solution)
    flops = sum(sampling_flops(model, count, 1, numbers.prompt, solution) for model in models)
    model = max(models, key=lambda m: m.parameters)
    # as `evaluate` decodes: one greedy solution a problem
    decode = bank.Decoding(
        n=1, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size, engine=config.engine
    )

    def phases(form: Form, memory: float) -> Phases:
        return [_loaded(model), sampling_phase("sampling", model, decode, count, numbers, memory)]

    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases)


def _loaded(model: Architecture) -> Phase:
    """A model that only samples or scores is read in the precision in which it works."""
    weights = {"weights": SCORING * model.parameters}
    return Phase("load", weights, weights)


_PLANS: dict[str, Callable[[Recipe, StageSpec, Numbers], StagePlan | None]] = {
    "pretrain": _pretrain,
    "sft": _sft,
    "reward": _reward,
    "sample": _sample,
    "rerank": _rerank,
    "evaluate": _evaluate,
    "ppo": plan_ppo,
    "grpo": plan_grpo,
    "dpo": plan_dpo,
    "rest": plan_rest,
}
