"""PPO with a value model and step rewards, on Accelerate. The loop reads from `train_ppo` downwards.

One PPO step: sample completions, score them (steps and outcome), compute log-probabilities, reference log-probabilities
and values, place rewards on tokens, estimate advantages, and take a few clipped optimiser steps.

    r_t = step_reward_t + outcome_t + penalty_t - kl_coef * kl_t

Every process holds the whole batch of rollouts as token ids; generation, scoring and model passes are divided among
processes, everything else is computed by each. So the numbers do not depend on the number of processes, up to rounding.
A completion ends with its end-of-sequence token, which is trained like any other; padding is in no loss, mean or
whitening.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.parallel.fsdp import plain
from rlhf_e2h.parallel.gathering import gather_json
from rlhf_e2h.parallel.sharding import rounded, weights_are_divided, whole_copy
from rlhf_e2h.rl.actor_critic import RolloutBatch
from rlhf_e2h.rl.advantages import explained_variance, gae, masked_mean, masked_sum, whiten
from rlhf_e2h.rl.engines import Engine
from rlhf_e2h.rl.experience import Experience, evaluate, evaluate_reference
from rlhf_e2h.rl.guards import kl_guard, stop_if_not_finite
from rlhf_e2h.rl.kl import kl_estimate
from rlhf_e2h.rl.losses import importance_weights, policy_loss, sampler_mismatch, value_loss
from rlhf_e2h.rl.ppo_settings import PPOSettings, check_prompts, derived_seed, prompt_indices
from rlhf_e2h.rl.rewards import Completion, Reward, RewardFn, call_reward_fn, token_rewards
from rlhf_e2h.rl.rollout import Rollouts
from rlhf_e2h.rl.sampling import sample_step
from rlhf_e2h.rl.trainer import Trainer, prepare, save

log = logging.getLogger(__name__)
Metrics = dict[str, float]
OnStep = Callable[[int, Metrics, Rollouts], bool | None]


@dataclass
class PPOResult:
    """What happened; policy and value model have been trained in place."""

    steps: int  # PPO steps that are done, those of an earlier, resumed run included
    stopped: str | None = None  # why training ended early
    # under ZeRO-3 and FSDP, where `policy` holds a part only, and under ZeRO in bf16, where it holds roundings: all
    # weights as they are trained, on the main process
    policy_weights: dict[str, Tensor] | None = None


def train_ppo(
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    value_model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Mapping[str, Any]],
    reward_fn: RewardFn,
    settings: PPOSettings,
    accelerator: Accelerator,
    on_step: OnStep | None = None,
    checkpoint_dir: Path | None = None,
    engine: Engine | None = None,
    choose: Callable[[int], Sequence[int]] | None = None,
) -> PPOResult:
    """Train `policy` and `value_model` in place (under ZeRO-3 and FSDP see `PPOResult.policy_weights`).

    Args:
        reference: where KL is measured to. None: the policy without its adapter if it is a PEFT model, else no KL.
        value_model: an `AutoModelForTokenClassification` with one label that reads the policy's token ids.
        prompts: rows with a `prompt`; the rest of a row is for `reward_fn`.
        on_step: gets (step, metrics, rollouts) after each step, on every process; True ends training.
        checkpoint_dir: where checkpoints are kept; training resumes from the last one found there.
        engine: what samples; default: our decoding loop on `policy`.

        choose: the prompts of a step, `prompts_per_step` indices, the same on every process; default: all in random
            order, again and again.

    Raises:
        ValueError: settings that do not fit together, or a reward that is not a finite number.
        AlignmentError: steps that cannot be located on the policy's tokens.
        FloatingPointError: loss or gradient is not finite; the batch is in `checkpoint_dir/bad_step_N`.
    """
    check_prompts(prompts)
    trainer = prepare(policy, reference, value_model, tokenizer, settings, accelerator, checkpoint_dir)
    result = PPOResult(trainer.steps_done)
    for step in range(result.steps, settings.steps):
        clock = _Clock()
        count = settings.prompts_per_step
        chosen = choose(step) if choose else prompt_indices(step, count, len(prompts), settings.seed)
        rows = [prompts[i] for i in chosen]
        rollouts = sample_step(trainer, engine, rows, step)
        clock.lap("time/rollout")
        rewards = _reward(trainer, reward_fn, rows, rollouts)
        clock.lap("time/reward")
        experience, metrics = _experience(trainer, rollouts, rewards)
        clock.lap("time/evaluate")
        metrics |= _update(trainer, experience, step, rollouts, checkpoint_dir)
        clock.lap("time/update")
        result.steps = step + 1
        metrics |= {"episode": result.steps * settings.rollouts, "eps": settings.rollouts / clock.total(), **clock.laps}
        trainer.kl.update(metrics["objective/kl"], settings.rollouts)
        result.stopped = kl_guard(metrics, settings)
        if on_step and on_step(step, metrics, rollouts):
            result.stopped = "on_step asked to stop"
        if checkpoint_dir and settings.save_steps and result.steps % settings.save_steps == 0:
            save(trainer, checkpoint_dir, result.steps)
        if result.stopped:
            log.warning("PPO stopped after step %d: %s", result.steps, result.stopped)
            break
    if weights_are_divided(accelerator) or rounded(accelerator):
        result.policy_weights = whole_copy(trainer.bare.policy, accelerator)
    return result


def _reward(
    trainer: Trainer, reward_fn: RewardFn, rows: Sequence[Mapping[str, Any]], rollouts: Rollouts
) -> list[Reward]:
    accelerator, n = trainer.accelerator, trainer.settings.samples_per_prompt
    completions = [
        Completion(rows[index // n], text, done, ids)
        for index, (text, done, ids) in enumerate(
            zip(rollouts.texts, rollouts.finished, rollouts.completion_ids, strict=True)
        )
    ]
    share = len(completions) // accelerator.num_processes
    first = accelerator.process_index * share
    own = call_reward_fn(reward_fn, completions[first : first + share])
    return [Reward(**reward) for part in gather_json(accelerator, [asdict(r) for r in own]) for reward in part]


@torch.no_grad()
def _experience(trainer: Trainer, rollouts: Rollouts, rewards: Sequence[Reward]) -> tuple[Experience, Metrics]:
    settings = trainer.settings
    batch = RolloutBatch.from_lists(rollouts.prompt_ids, rollouts.completion_ids, trainer.accelerator.device)
    mask = batch.mask
    sampled = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rollouts.logprobs], batch_first=True).to(
        mask.device
    )
    logprobs, entropy, values = evaluate(trainer, batch, sampled)
    reference = evaluate_reference(trainer, batch, logprobs)

    kl_BT = torch.where(mask, kl_estimate(logprobs, reference, settings.kl_estimator), 0.0)
    scores_BT, metrics = token_rewards(rewards, rollouts, trainer.tokenizer, mask, settings)
    rewards_BT = scores_BT - trainer.kl.coefficient * kl_BT
    if settings.whiten_rewards:
        rewards_BT = whiten(rewards_BT, mask, keep_mean=True)
    advantages, returns = gae(rewards_BT, values, mask, settings.gamma, settings.lam)
    metrics |= {
        "objective/kl": float(kl_BT.sum(1).mean()),
        "objective/kl_coef": trainer.kl.coefficient,
        "objective/scores": float(scores_BT.sum(1).mean()),
        "objective/non_score_reward": float(-trainer.kl.coefficient * kl_BT.sum(1).mean()),
        "objective/rlhf_reward": float((scores_BT - trainer.kl.coefficient * kl_BT).sum(1).mean()),
        "objective/entropy": float(-masked_sum(logprobs, mask) / len(mask)),
        "val/num_eos_tokens": float(sum(rollouts.finished)),
        "critic/vf_explained_var": float(explained_variance(values, returns, mask)),
        "critic/value_mean": float(masked_mean(values, mask)),
        "critic/return_mean": float(masked_mean(returns, mask)),
    }
    weights = None
    if settings.old_logprobs == "trainer":
        metrics["rollout/logprob_diff_mean"] = float(masked_mean((logprobs - sampled).abs(), mask))
        metrics["rollout/entropy"] = float(masked_mean(entropy, mask))
        metrics |= sampler_mismatch(logprobs, sampled, mask)
    if settings.importance_cap is not None:
        weights = importance_weights(logprobs, sampled, mask, settings.importance_cap)
    if settings.whiten_advantages:
        advantages = whiten(advantages, mask)
    return Experience(batch, logprobs, values, advantages, returns, weights), metrics


def _update(
    trainer: Trainer, experience: Experience, step: int, rollouts: Rollouts, checkpoint_dir: Path | None
) -> Metrics:
    """The optimiser steps of one PPO step."""
    settings, accelerator, optimizer = trainer.settings, trainer.accelerator, trainer.optimizer
    batch = experience.batch
    micro, count = settings.micro_batches(accelerator.num_processes)
    lr_share = settings.learning_rate_share(step)
    for group, peak in zip(optimizer.param_groups, trainer.peaks, strict=True):
        group["lr"] = peak * lr_share
    seen: list[Tensor] = []  # one row a minibatch
    for epoch in range(settings.num_ppo_epochs):
        generator = torch.Generator().manual_seed(derived_seed(settings.seed, "minibatches", step, epoch))
        order = torch.randperm(settings.rollouts, generator=generator).to(batch.mask.device)
        for rows in order.split(settings.rollouts // settings.num_mini_batches):
            share = batch.share(rows, accelerator.process_index, accelerator.num_processes)
            sums = torch.zeros(len(_LOSS_METRICS), device=batch.mask.device)
            for chunk in batch.chunks(share, micro):
                with accelerator.accumulate(trainer.model):
                    loss, parts = _loss(trainer, experience, chunk, batch.mask[rows].sum(), step)
                    # gradients are averaged over processes and micro-batches, the loss is a sum over both
                    accelerator.backward(loss * count * accelerator.num_processes)
                    sums += parts
                    if accelerator.sync_gradients:
                        norms = _clip_gradients(trainer)
                        stop_if_not_finite(trainer, experience, rollouts, step, sums, norms, checkpoint_dir)
                    optimizer.step()
                    optimizer.zero_grad()
            seen.append(torch.cat([sums, norms]))
    table = torch.stack(seen)
    sums = accelerator.reduce(table[:, : len(_LOSS_METRICS)].contiguous(), "sum")
    metrics = dict(zip(_LOSS_METRICS, sums.mean(0).tolist(), strict=True))
    metrics["val/ratio_var"] = float(sums[:, _LOSS_METRICS.index("val/ratio")].var(correction=0))
    metrics["val/ratio_first"] = float(sums[0, _LOSS_METRICS.index("val/ratio")])
    metrics["policy/grad_norm"], metrics["critic/grad_norm"] = table[:, len(_LOSS_METRICS) :].mean(0).tolist()
    metrics["lr"] = settings.learning_rate * lr_share
    if settings.old_logprobs == "sampler":
        # the first minibatch has seen the weights that sampled
        metrics["rollout/logprob_diff_mean"] = float(sums[0, _LOSS_METRICS.index("val/logprob_diff")])
    return metrics


_LOSS_METRICS = (
    "loss/policy_avg",
    "loss/value_avg",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "policy/entropy_avg",
    "val/clipfrac_avg",
    "val/ratio",
    "val/logprob_diff",
)


def _loss(trainer: Trainer, experience: Experience, rows: Tensor, tokens: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Loss of a micro-batch as its part of the minibatch's loss, and the parts of `_LOSS_METRICS`."""
    settings = trainer.settings
    found = trainer.model(experience.batch, rows, settings.temperature)
    width = found.logprobs.shape[1]
    mask, old, values, advantages, returns = (
        tensor[rows, :width]
        for tensor in (
            experience.batch.mask,
            experience.old_logprobs,
            experience.old_values,
            experience.advantages,
            experience.returns,
        )
    )
    weights = None if experience.weights is None else experience.weights[rows, :width]
    policy = policy_loss(found.logprobs, old, advantages, mask, settings.cliprange, tokens, weights)
    value = value_loss(found.values, values, returns, mask, settings.cliprange_value, tokens)
    policy_share = 0.0 if step < settings.value_only_steps else 1.0
    difference = masked_sum((found.logprobs.detach() - old).abs(), mask) / tokens
    entropy = masked_sum(found.entropy, mask) / tokens
    parts = [
        policy.loss,
        value.loss,
        policy.approx_kl,
        policy.clip_fraction,
        entropy,
        value.clip_fraction,
        policy.ratio,
    ]
    return policy_share * policy.loss + settings.vf_coef * value.loss, torch.stack([*parts, difference]).detach()


def _clip_gradients(trainer: Trainer) -> Tensor:
    """Clip policy and value gradients each by its own norm, so that neither can starve the other; (2,) norms."""
    limit = trainer.settings.max_grad_norm
    norms = [
        trainer.accelerator.clip_grad_norm_(group, limit) if group else torch.zeros(()) for group in trainer.groups
    ]
    whole = [plain(norm) if isinstance(norm, Tensor) else torch.tensor(norm) for norm in norms]
    return torch.stack([norm.to(trainer.accelerator.device, torch.float32) for norm in whole])


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: Metrics = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def total(self) -> float:
        return self.last - self.start
