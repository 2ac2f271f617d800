"""Plans of the stages that optimise a policy: PPO, GRPO, DPO and ReST-EM."""

from __future__ import annotations

from functools import partial
from typing import Any

from rlhf_e2h.plan import data
from rlhf_e2h.plan.architecture import Architecture
from rlhf_e2h.plan.common import (
    Phases,
    StagePlan,
    adapters_of,
    lora_origin,
    micro_batches,
    model_of,
    scored_by,
    trained_rows,
    trainer_phases,
)
from rlhf_e2h.plan.data import Numbers
from rlhf_e2h.plan.flops import forward_flops, sampling_flops, training_flops
from rlhf_e2h.plan.memory import (
    LOGITS_TILE,
    SCORING,
    Form,
    Parts,
    Trained,
    Update,
    decoding,
    logit_bytes,
    state,
    transient_bytes,
    update_phases,
)
from rlhf_e2h.recipe import Recipe, StageSpec


def plan_ppo(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, ppo = spec.config, spec.config.ppo
    policy = model_of(recipe, config.policy)
    critic = policy if config.value_init == "policy" else model_of(recipe, config.reward_model)
    solution = min(numbers.solution, ppo.max_new_tokens)
    length = numbers.prompt + solution
    rollouts = float(ppo.steps * ppo.rollouts)
    tokens = rollouts * length
    flops = sampling_flops(policy, rollouts / ppo.samples_per_prompt, ppo.samples_per_prompt, numbers.prompt, solution)
    if ppo.kl_coef or config.lora.rank:
        flops += forward_flops(policy, tokens, length, rollouts * solution)
    if ppo.old_logprobs == "trainer":
        flops += forward_flops(policy, tokens, length, rollouts * solution)
    flops += forward_flops(critic, tokens, length, 0)
    checkpointing = config.gradient_checkpointing
    once = training_flops(policy, tokens, length, rollouts * solution, checkpointing)
    once += training_flops(critic, tokens, length, 0, checkpointing and not config.value_head_only)
    flops += ppo.epochs * once
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
    config: Any, policy: Architecture, critic: Architecture, others: Parts, numbers: Numbers, form: Form
) -> Phases:
    """`others`: bytes of what is not trained, but for a reference that is a whole model."""
    ppo = config.ppo
    models = (
        Trained(policy, adapters=adapters_of(policy, config.lora)),
        Trained(critic, True, adapters_of(critic, config.lora), config.value_head_only, config.share_base),
    )
    rows, count = micro_batches(ppo.rollouts // ppo.minibatches, ppo.micro_batch, form.processes)
    has_reference = not config.lora.rank and ppo.kl_coef != 0
    share = form.processes if form.divides_weights else 1
    frozen = {name: size for name, size in others.items() if size}
    if has_reference:
        frozen["reference"] = (2.0 if form.halves(config.bf16) else 4.0) * policy.parameters / share
    length = numbers.prompt + ppo.max_new_tokens
    checkpointing = config.gradient_checkpointing
    update = Update(
        models, rows, length, count, config.bf16, checkpointing,
        logit_bytes("ppo", config.bf16), rows * ppo.max_new_tokens, frozen,
    )  # fmt: skip
    held = {**state(models, form, config.bf16), **frozen, "gradients": 0.0}
    if form.divides_weights:
        whole = (2.0 if config.bf16 else 4.0) * policy.parameters  # FSDP gathers in bf16 too
        held["gathered weights"] = max(held.get("gathered weights", 0.0), whole)
    prompts = max(1, ppo.prompts_per_step // form.processes)
    together = min(ppo.generation_batch, prompts * ppo.samples_per_prompt)
    phases = {"rollout": {**held, **decoding(policy, together, numbers.prompt, ppo.max_new_tokens, config.bf16)}}
    if others["reward model"]:
        reader = critic if config.value_init != "policy" else policy
        scored = {"activations": config.reward_batch_tokens * transient_bytes(reader, True)}
        phases["reward"] = {**held, **scored}
    return {**phases, **update_phases(update, form)}


def plan_grpo(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    """As PPO without a value model; TRL's trainer takes several optimiser steps (`iterations`) on what it sampled."""
    config, model = spec.config, model_of(recipe, spec.config.policy)
    solution = min(numbers.solution, config.max_new_tokens)
    length = numbers.prompt + solution
    found = data.problems(recipe, config.data, "train", config.levels, config.problems, numbers)
    read = trained_rows(config.training, found * config.generations * config.iterations) * length
    tokens = read / config.iterations
    prompts = tokens / length / config.generations
    head = read * solution / length
    flops = sampling_flops(model, prompts, config.generations, numbers.prompt, solution)
    flops += training_flops(model, read, length, head, config.training.gradient_checkpointing)
    # once a completion: where it is trained on more than once, what it was sampled with; and the reference
    once_more = int(config.iterations > 1) + int(config.beta > 0)
    flops += once_more * forward_flops(model, tokens, length, head / config.iterations)
    rewards = {}
    for name in ("reward_model", "outcome_model"):
        rewards[name.replace("_", " ")], more = scored_by(recipe, getattr(config, name), tokens, length)
        flops += more
    phases = partial(grpo_phases, config, model, rewards, numbers.prompt)
    return StagePlan(spec.name, spec.kind, model.name, tokens, flops, phases, trains=True)


def grpo_phases(config: Any, model: Architecture, rewards: dict[str, int], prompt: int, form: Form) -> Phases:
    settings, trained = config.training, Trained(model, adapters=adapters_of(model, config.lora))
    rows, count = micro_batches(settings.batch_size, settings.micro_batch_size, form.processes)
    frozen = {name: SCORING * size for name, size in rewards.items() if size}
    if config.beta and not config.lora.rank:
        frozen["reference"] = 4.0 * model.parameters / (form.processes if form.divides_weights else 1)
    length = prompt + config.max_new_tokens
    update = Update(
        (trained,), rows, length, count, settings.bf16, settings.gradient_checkpointing,
        logit_bytes("fused", settings.bf16), min(rows * length, LOGITS_TILE), frozen,
    )  # fmt: skip
    held = {**state((trained,), form, settings.bf16), **frozen, "gradients": 0.0}
    # all completions of an update are sampled together
    phases = {"rollout": {**held, **decoding(model, rows * count, prompt, config.max_new_tokens, settings.bf16)}}
    if rewards["reward model"]:
        scored = {"activations": config.reward_batch_tokens * transient_bytes(model, True)}
        phases["reward"] = {**held, **scored}
    return {**phases, **update_phases(update, form)}


def plan_dpo(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    n, solution = config.decoding.n, min(numbers.solution, config.decoding.max_new_tokens)
    length = numbers.prompt + solution
    found = config.rounds * data.problems(recipe, config.data, "train", config.levels, config.problems, numbers)
    sampled, scored = _sampled(recipe, config, model, found, n, numbers)
    pairs = found * min(config.max_pairs, n // 2)
    numbers.assume(f"{spec.name}: every problem gives its {min(config.max_pairs, n // 2)} pairs")
    read = 2 * length * trained_rows(config.training, pairs)
    head = read * solution / length
    flops = training_flops(model, read, length, head, config.training.gradient_checkpointing)
    flops += forward_flops(model, read, length, head)  # the reference
    adapters = adapters_of(model, config.lora)
    frozen = {} if adapters else {"reference": model.parameters}
    phases = partial(sampling_trainer_phases, config, Trained(model, adapters=adapters), frozen, 2, numbers)
    tokens = found * (numbers.prompt + n * solution) + read
    return StagePlan(spec.name, spec.kind, model.name, tokens, sampled + scored + flops, phases, trains=True)


def plan_rest(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> StagePlan:
    config, model = spec.config, model_of(recipe, spec.config.policy)
    n, solution = config.decoding.n, min(numbers.solution, config.decoding.max_new_tokens)
    length = numbers.prompt + solution
    found = config.rounds * data.problems(recipe, config.data, "train", config.levels, config.problems, numbers)
    sampled, scored = _sampled(recipe, config, model, found, n, numbers)
    numbers.assume(f"{spec.name}: every problem gives {min(config.max_kept, n)} solutions to learn from")
    read = length * trained_rows(config.training, found * min(config.max_kept, n))
    flops = training_flops(model, read, length, read * solution / length, config.training.gradient_checkpointing)
    trained = Trained(model, adapters=adapters_of(model, config.lora))
    phases = partial(sampling_trainer_phases, config, trained, {}, 1, numbers)
    tokens = found * (numbers.prompt + n * solution) + read
    return StagePlan(spec.name, spec.kind, model.name, tokens, sampled + scored + flops, phases, trains=True)


def _sampled(
    recipe: Recipe, config: Any, model: Architecture, problems: float, n: int, numbers: Numbers
) -> tuple[float, float]:
    """Operations of sampling n solutions a problem and of scoring them."""
    solution = min(numbers.solution, config.decoding.max_new_tokens)
    length = numbers.prompt + solution
    _, scored = scored_by(recipe, config.reward_model, problems * n * length, length)
    return sampling_flops(model, problems, n, numbers.prompt, solution), scored


def sampling_trainer_phases(
    config: Any, trained: Trained, frozen: dict[str, int], copies: int, numbers: Numbers, form: Form
) -> Phases:
    decode, model = config.decoding, trained.model
    rows = max(1, decode.batch_size // decode.n) * min(decode.n, decode.batch_size)
    sampling = {
        "weights": SCORING * trained.weights,
        **decoding(model, rows, numbers.prompt, decode.max_new_tokens, True),
    }
    return {"sampling": sampling, **trainer_phases(config.training, trained, frozen, copies, form)}
