"""What each stage of a recipe will hold and compute, from its settings alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rlhf_e2h.plan import data
from rlhf_e2h.plan.common import (
    Phases,
    StagePlan,
    adapters_of,
    model_of,
    sample_count,
    trained_rows,
    trainer_phases,
)
from rlhf_e2h.plan.data import Numbers
from rlhf_e2h.plan.flops import forward_flops, sampling_flops, training_flops
from rlhf_e2h.plan.memory import SCORING, Form, Parts, Trained, decoding, transient_bytes
from rlhf_e2h.plan.policies import plan_dpo, plan_grpo, plan_ppo, plan_rest
from rlhf_e2h.recipe import Recipe, StageSpec


def plan_stage(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan | None:
    """The plan of a stage; None for one that runs no model, or whose kind has no plan yet.

    Raises:
        ConfigError: a model whose architecture cannot be read.
    """
    make = _PLANS.get(spec.kind)
    return make(recipe, spec, numbers) if make else None


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
    examples = data.easy_labels(recipe, config.data, config.labels, numbers)
    length = min(numbers.prompt + numbers.solution, config.training.max_length)
    tokens = trained_rows(config.training, min(examples, config.limit or examples)) * length
    head = tokens * numbers.solution / (numbers.prompt + numbers.solution)
    flops = training_flops(model, tokens, length, head, config.training.gradient_checkpointing)
    phases = partial(trainer_phases, config.training, Trained(model, adapters=adapters_of(model, config.lora)), {}, 1)
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
    length = min(numbers.prompt + numbers.solution, settings.max_length)
    tokens = trained_rows(settings, records * (1 - config.held_out)) * length
    flops = training_flops(model, tokens, length, 0, settings.gradient_checkpointing)
    trained = Trained(model, True, model.lora_parameters(settings.lora_rank) if settings.lora_rank else 0)
    phases = partial(trainer_phases, settings, trained, {}, 1)
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases, trains=True)


def _inference(weights: float, parts: Parts, form: Form) -> Phases:
    return {"inference": {"weights": SCORING * weights, **parts}}


def _sample(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    count = sample_count(recipe, spec, numbers)
    decode = config.decoding
    solution = min(numbers.solution, decode.max_new_tokens)
    tokens = count / decode.n * numbers.prompt + count * solution
    flops = sampling_flops(model, count / decode.n, decode.n, numbers.prompt, solution)
    rows = max(1, decode.batch_size // decode.n) * min(decode.n, decode.batch_size)
    phases = partial(
        _inference, model.parameters, decoding(model, min(rows, count), numbers.prompt, decode.max_new_tokens, True)
    )
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases)


def _rerank(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config = spec.config
    models = [model_of(recipe, reference) for reference in config.reward_models.values()]
    length = numbers.prompt + numbers.solution
    tokens = sample_count(recipe, recipe.stages[config.samples[1:].split("/")[0]], numbers) * length
    flops = sum(forward_flops(model, tokens, length, 0) for model in models)
    model = max(models, key=lambda m: m.parameters)
    scored = {"activations": config.max_tokens_per_batch * transient_bytes(model, True)}
    phases = partial(_inference, model.scorer_parameters, scored)
    return StagePlan(spec.name, spec.kind, model.name, tokens * len(models), flops, phases)


def _evaluate(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config = spec.config
    models = [model_of(recipe, reference) for reference in config.policies.values()]
    count = data.problems(recipe, config.data, "test", None, None, numbers)
    solution = min(numbers.solution, config.max_new_tokens)
    tokens = len(models) * count * (numbers.prompt + solution)
    flops = sum(sampling_flops(model, count, 1, numbers.prompt, solution) for model in models)
    model = max(models, key=lambda m: m.parameters)
    rows = min(config.batch_size, count)
    parts = decoding(model, rows, numbers.prompt, config.max_new_tokens, True)
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, partial(_inference, model.parameters, parts))


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
