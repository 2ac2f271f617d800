"""Plans of the stages that optimise a policy: PPO, GRPO, DPO and ReST-EM."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from rlhf_e2h.rl.chunked_logits import CHUNK
from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.tools.plan import data
from rlhf_e2h.tools.plan.activations import LOGITS_TILE, logit_bytes
from rlhf_e2h.tools.plan.common import (
    Phases,
    StagePlan,
    lora_origin,
    micro_batches,
    model_of,
    sampling_phase,
    scored_by,
    trained_model,
    trained_rows,
    trainer_phases,
)
from rlhf_e2h.tools.plan.data import Numbers
from rlhf_e2h.tools.plan.memory import SCORING, Form, Parts, Trained, reference_bytes
from rlhf_e2h.tools.plan.phases import (
    Decoding,
    Phase,
    Update,
    checkpoint,
    held,
    log_probabilities,
    rollout,
    scoring,
    training,
    vllm_engine,
)
from rlhf_e2h.training.architecture import Architecture
from rlhf_e2h.training.flops import forward_flops, sampling_flops, training_flops

TOKENS_A_BATCH = 16384  # that `reward_models.Scorer` reads at once by default


def plan_ppo(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config = spec.config
    policy = model_of(recipe, config.policy)
    critic = policy if config.value_init == "policy" else model_of(recipe, config.reward_model)
    solution = min(numbers.solution, config.max_new_tokens)
    length = numbers.prompt + solution
    rollouts = float(config.steps * config.rollouts)
    tokens = rollouts * length
    flops = sampling_flops(
        policy, rollouts / config.samples_per_prompt, config.samples_per_prompt, numbers.prompt, solution
    )
    if config.has_reference:
        flops += forward_flops(policy, tokens, length, rollouts * solution)
    if config.old_logprobs == "trainer":
        flops += forward_flops(policy, tokens, length, rollouts * solution)
    flops += forward_flops(critic, tokens, length, 0)
    checkpointing = config.gradient_checkpointing
    once = training_flops(policy, tokens, length, rollouts * solution, checkpointing)
    once += training_flops(critic, tokens, length, 0, checkpointing and not config.value_head_only)
    flops += config.num_ppo_epochs * once
    frozen = {}
    for name in ("reward_model", "outcome_model"):
        size, more = scored_by(recipe, getattr(config, name), tokens, length)
        frozen[name.replace("_", " ")] = SCORING * size
        flops += more
    if config.share_base:
        frozen |= _frozen_adapters(recipe, config, policy)
    phases = partial(ppo_phases, config, policy, critic, frozen, numbers)
    return StagePlan(spec.name, spec.kind, policy.name, tokens, flops, phases, trains=True)


def _frozen_adapters(recipe: Recipe, config: Any, policy: Architecture) -> Parts:
    """Bytes of what `share_base` holds as frozen adapters in the place of whole models.

    A reward model shares the base if a stage of the recipe trains it with LoRA on what the policy was trained on.
    """
    base, rank = lora_origin(recipe, config.policy)
    found = {"reference": 4.0 * policy.lora_parameters(rank)} if rank else {}
    for name in ("reward_model", "outcome_model"):
        if reference := getattr(config, name):
            origin, rank = lora_origin(recipe, reference)
            if rank and origin == base:
                found[name.replace("_", " ")] = 4.0 * (policy.lora_parameters(rank) + policy.hidden)
    return found


def ppo_phases(
    config: Any,
    policy: Architecture,
    critic: Architecture,
    others: Parts,
    numbers: Numbers,
    form: Form,
    memory: float = 0.0,
) -> Phases:
    """`others`: bytes of what is not trained, but for a reference that is a whole model."""
    update = _ppo_update(config, policy, critic, others, numbers, form)
    there = held(update, form)
    gathered = 0.0
    if form.divides_weights:
        gathered = (2.0 if config.bf16 else 4.0) * policy.parameters  # FSDP gathers in bf16 too
        there["gathered weights"] = max(there.get("gathered weights", 0.0), gathered)
    loading, backward, step = training(update, form)
    phases = [loading, _rollout(config, policy, numbers, form, there, memory)]
    if others["reward model"]:
        reader = critic if config.value_init != "policy" else policy
        phases.append(scoring(reader, config.reward_batch_tokens, there))
    rows = min(config.forward_rows, max(1, config.rollouts // form.processes))
    phases.append(log_probabilities(update, form, rows, logits_at_once(policy, rows * config.max_new_tokens)))
    phases += [backward, step]
    if config.save_steps:
        phases.append(checkpoint(update, form, gathered + (2.0 if config.bf16 else 4.0) * critic.scorer_parameters))
    engine = config.engine
    if engine.name == "vllm" and engine.url is None:  # it is there all the time
        phases = [phases[0], *(vllm_engine(p.name, engine.memory_share, memory, p.parts) for p in phases[1:])]
    return phases


def logits_at_once(model: Architecture, tokens: int) -> int:
    """Tokens whose logits PPO holds at a time."""
    return min(tokens, max(1, CHUNK // model.vocabulary))


def _ppo_update(
    config: Any, policy: Architecture, critic: Architecture, others: Parts, numbers: Numbers, form: Form
) -> Update:
    head_only, shares = config.value_head_only, config.share_base
    actor = trained_model(policy, config)
    value = trained_model(critic, config, scorer=True)
    models = (actor, dataclasses.replace(value, head_only=head_only, shares_base=shares))
    rows, count = micro_batches(
        config.rollouts // config.num_mini_batches, config.per_device_train_batch_size, form.processes
    )
    frozen = {name: size for name, size in others.items() if size}
    if config.holds_reference:
        share = form.processes if form.divides_weights else 1
        frozen["reference"] = reference_bytes(policy, form, config.bf16) / share
    length = numbers.prompt + config.max_new_tokens
    return Update(
        models, rows, length, count, config.bf16, config.gradient_checkpointing,
        logit_bytes("ppo", config.bf16), logits_at_once(policy, rows * config.max_new_tokens), frozen, chunked=True,
        read_by_all=("weights",) if shares else (),
    )  # fmt: skip


def _rollout(config: Any, policy: Architecture, numbers: Numbers, form: Form, there: Parts, memory: float) -> Phase:
    if config.engine.name == "vllm":
        return Phase("rollout", there)  # what vLLM takes is added to every phase
    prompts = max(1, config.prompts_per_step // form.processes)
    rows = min(config.generation_batch, prompts * config.samples_per_prompt)
    size = 2.0 if config.bf16 else 4.0  # what attention computes in
    decoding = Decoding(rows, -(-rows // config.samples_per_prompt), numbers.prompt, config.max_new_tokens, size)
    return rollout("rollout", policy, decoding, there, config.bf16 and not form.halves(True))


def plan_grpo(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    """As PPO without a value model; TRL's trainer may take several optimiser steps on what it sampled."""
    config, model = spec.config, model_of(recipe, spec.config.policy)
    solution = min(numbers.solution, config.max_new_tokens)
    length = numbers.prompt + solution
    found = data.problems(recipe, config.data, "train", config.levels, config.problems, numbers)
    read = trained_rows(config.training, found * config.num_generations * config.num_iterations) * length
    tokens = read / config.num_iterations
    prompts = tokens / length / config.num_generations
    head = read * solution / length
    flops = sampling_flops(model, prompts, config.num_generations, numbers.prompt, solution)
    flops += training_flops(model, read, length, head, config.training.gradient_checkpointing)
    # once a completion: where it is trained on more than once, what it was sampled with; and the reference
    once_more = int(config.num_iterations > 1) + int(config.beta > 0)
    flops += once_more * forward_flops(model, tokens, length, head / config.num_iterations)
    rewards = {}
    for name in ("reward_model", "outcome_model"):
        rewards[name.replace("_", " ")], more = scored_by(recipe, getattr(config, name), tokens, length)
        flops += more
    phases = partial(grpo_phases, config, model, rewards, numbers.prompt)
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases, trains=True)


def grpo_phases(
    config: Any, model: Architecture, rewards: dict[str, int], prompt: int, form: Form, memory: float = 0.0
) -> Phases:
    settings = config.training
    rows, count = micro_batches(settings.batch_size, settings.per_device_train_batch_size, form.processes)
    frozen = {name: SCORING * size for name, size in rewards.items() if size}
    if config.beta and not settings.lora.r:
        frozen["reference"] = 4.0 * model.parameters / (form.processes if form.divides_weights else 1)
    length = prompt + config.max_new_tokens
    trained = dataclasses.replace(trained_model(model, settings), keeps_float32=True)
    update = Update(
        (trained,), rows, length, count, settings.bf16, settings.gradient_checkpointing,
        logit_bytes("fused", settings.bf16), min(rows * length, LOGITS_TILE), frozen,
        read_by_all=("reference",),  # TRL opens it
    )  # fmt: skip
    there = held(update, form)
    loading, backward, step = training(update, form)
    # all completions of an update are sampled together, by TRL's loop with transformers' cache, in the model's dtype
    size = 2.0 if form.halves(settings.bf16) else 4.0
    decoding = Decoding(rows * count, rows * count, prompt, config.max_new_tokens, size)
    phases = [loading, rollout("rollout", model, decoding, there, settings.bf16 and not form.halves(True))]
    if rewards["reward model"]:
        phases.append(scoring(model, config.reward_batch_tokens, there))
    return [*phases, backward, step, checkpoint(update, form, moments=settings.save_steps > 0)]


def plan_dpo(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    n, solution = config.decoding.n, min(numbers.solution, config.decoding.max_new_tokens)
    length = numbers.prompt + solution
    found = config.rounds * _asked(recipe, config, numbers)
    sampled, scored = _sampled(recipe, config, model, found, n, numbers)
    pairs = found * min(config.max_pairs, n // 2)
    numbers.assume(f"{spec.name}: every problem gives its {min(config.max_pairs, n // 2)} pairs")
    read = 2 * length * trained_rows(config.training, pairs)
    head = read * solution / length
    flops = training_flops(model, read, length, head, config.training.gradient_checkpointing)
    flops += forward_flops(model, read, length, head)  # the reference
    frozen = {} if config.training.lora.r else {"reference": model.parameters}
    trained = trained_model(model, config.training)
    phases = partial(sampling_trainer_phases, recipe, config, trained, frozen, 2, numbers, found / config.rounds)
    tokens = found * (numbers.prompt + n * solution) + read
    return StagePlan(spec.name, spec.kind, model.name, tokens, sampled + scored + flops, phases, trains=True)


def plan_rest(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    n, solution = config.decoding.n, min(numbers.solution, config.decoding.max_new_tokens)
    length = numbers.prompt + solution
    found = config.rounds * _asked(recipe, config, numbers)
    sampled, scored = _sampled(recipe, config, model, found, n, numbers)
    numbers.assume(f"{spec.name}: every problem gives {min(config.max_kept, n)} solutions to learn from")
    read = length * trained_rows(config.training, found * min(config.max_kept, n))
    flops = training_flops(model, read, length, read * solution / length, config.training.gradient_checkpointing)
    trained = trained_model(model, config.training)
    phases = partial(sampling_trainer_phases, recipe, config, trained, {}, 1, numbers, found / config.rounds)
    tokens = found * (numbers.prompt + n * solution) + read
    return StagePlan(spec.name, spec.kind, model.name, tokens, sampled + scored + flops, phases, trains=True)


def _asked(recipe: Recipe, config: Any, numbers: Numbers) -> int:
    """Problems of a round: those with a readable answer, where no reward model judges the others."""
    levels = config.levels
    if config.labels != "full" and config.reward_model is None and levels is None:
        levels = [1, 2, 3] if config.labels == "easy" else [4, 5]
    return data.problems(recipe, config.data, "train", levels, config.problems, numbers)


def _sampled(
    recipe: Recipe, config: Any, model: Architecture, problems: float, n: int, numbers: Numbers
) -> tuple[float, float]:
    """Operations of sampling n solutions a problem, less those of the first round that are given, and of scoring."""
    solution = min(numbers.solution, config.decoding.max_new_tokens)
    length = numbers.prompt + solution
    _, scored = scored_by(recipe, config.reward_model, problems * n * length, length)
    new = problems * (1 - 1 / config.rounds) if config.samples else problems
    return (sampling_flops(model, new, n, numbers.prompt, solution) if new else 0.0), scored


def sampling_trainer_phases(
    recipe: Recipe,
    config: Any,
    trained: Trained,
    frozen: dict[str, int],
    copies: int,
    numbers: Numbers,
    problems: float,
    form: Form,
    memory: float = 0.0,
) -> Phases:
    """A round of DPO or ReST-EM: the policy samples and the reward model scores, each alone; then comes training."""
    phases = [sampling_phase("sampling", trained.model, config.decoding, problems * config.decoding.n, numbers, memory)]
    if config.reward_model:
        reader = model_of(recipe, config.reward_model)
        phases.append(scoring(reader, TOKENS_A_BATCH, {"weights": SCORING * reader.scorer_parameters}))
    loading, *rest = trainer_phases(config.training, trained, frozen, copies, form, memory)
    return [loading, *phases, *rest]
