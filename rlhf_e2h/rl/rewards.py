"""What a reward function gets and gives, and how its answers become one reward a token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.rl.alignment import step_tokens
from rlhf_e2h.rl.endings import end_tokens, without_end
from rlhf_e2h.rl.rollout import Rollouts
from rlhf_e2h.rl.step_rewards import place, shape_rewards


@dataclass
class Completion:
    """One rollout as a reward function sees it."""

    row: Mapping[str, Any]  # the prompt's row, as given to `train_ppo`
    text: str  # without end of sequence
    finished: bool  # end of sequence was sampled
    ids: Sequence[int] = ()  # its tokens, end of sequence included


@dataclass
class Reward:
    """A reward function's verdict on one completion."""

    step_ends: list[int] = field(default_factory=list)  # character offset (exclusive) in the text where each step ends
    step_scores: list[float] = field(default_factory=list)  # a probability a step
    outcome: float | None = None  # of the whole; None where nothing is known
    extras: dict[str, float] = field(default_factory=dict)  # logged as reward/NAME, mean over the step
    bonus: float = 0.0  # further terms on the last token, not scaled
    per_token: list[float] | None = None  # further terms, one a token of the completion


RewardFn = Callable[[Sequence[Completion]], Sequence[Reward]]


def call_reward_fn(reward_fn: RewardFn, completions: Sequence[Completion]) -> list[Reward]:
    """The rewards, checked.

    Raises:
        ValueError: a wrong number of rewards or steps, or a value that is not a finite number.
    """
    rewards = list(reward_fn(completions))
    if len(rewards) != len(completions):
        raise ValueError(f"the reward function gave {len(rewards)} rewards for {len(completions)} completions")
    for index, reward in enumerate(rewards):
        completion = completions[index]
        where = f"reward of problem {completion.row.get('problem_id', index)!r} (completion {completion.text[:60]!r})"
        if len(reward.step_ends) != len(reward.step_scores):
            raise ValueError(f"{where}: {len(reward.step_scores)} scores for {len(reward.step_ends)} steps")
        values = [*reward.step_scores, reward.outcome or 0.0, reward.bonus, *(reward.per_token or [])]
        bad = [value for value in values if not math.isfinite(value)]
        if bad:
            raise ValueError(f"{where}: holds {bad[0]}; every score must be a finite number")
    return rewards


class Shaping(Protocol):
    """The settings that turn a `Reward` into numbers; `PPOSettings` has them."""

    step_scheme: str
    step_options: dict[str, float | str | bool]
    step_scale: float
    outcome_scale: float
    outcome_unlabelled: float
    unfinished_penalty: float


def token_rewards(
    rewards: Sequence[Reward], rollouts: Rollouts, tokenizer: Tokenizer, mask_BT: Tensor, settings: Shaping
) -> tuple[Tensor, dict[str, float]]:
    """(B, T) reward of each completion token before KL, and metrics.

    Steps pay on the token that ends them, outcome, penalty and other terms on the last token.
    """
    device = mask_BT.device
    ends = end_tokens(tokenizer)
    bare = [without_end(ids, ends) for ids in rollouts.completion_ids]
    tokens = step_tokens(tokenizer, bare, rollouts.texts, [reward.step_ends for reward in rewards])
    last_B = mask_BT.sum(1) - 1
    tokens_BS, _ = _pad(tokens, torch.long)
    tokens_BS = tokens_BS.to(device)
    if settings.step_scheme == "terminal":
        tokens_BS = last_B.unsqueeze(1).expand_as(tokens_BS)
    shaped_BS, steps_BS = _shaped(rewards, settings, device)
    step_BT = place(shaped_BS, tokens_BS, steps_BS, mask_BT)
    terminal_B = _terminal(rewards, rollouts.finished, settings, device)
    found_BT = step_BT.scatter_add(1, last_B.unsqueeze(1), terminal_B.unsqueeze(1))
    for row, reward in enumerate(rewards):
        if reward.per_token is not None:
            found_BT[row, : len(reward.per_token)] += torch.tensor(reward.per_token, device=device)
    return found_BT, _metrics(rewards, rollouts, mask_BT, step_BT, shaped_BS, steps_BS)


def sequence_rewards(rewards: Sequence[Reward], finished: Sequence[bool], settings: Shaping) -> list[float]:
    """One number a completion: what `token_rewards` spreads over its tokens, added up."""
    shaped_BS, _ = _shaped(rewards, settings, torch.device("cpu"))
    total_B = shaped_BS.sum(1) + _terminal(rewards, finished, settings, torch.device("cpu"))
    return [float(total) + sum(r.per_token or ()) for total, r in zip(total_B, rewards, strict=True)]


def _shaped(rewards: Sequence[Reward], settings: Shaping, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, S) reward of each step, and the mask of real steps."""
    scores_BS, steps_BS = _pad([reward.step_scores for reward in rewards], torch.float32)
    scores_BS, steps_BS = scores_BS.to(device), steps_BS.to(device)
    shaped = shape_rewards(settings.step_scheme, scores_BS, steps_BS, **settings.step_options)
    return settings.step_scale * shaped, steps_BS


def _terminal(rewards: Sequence[Reward], finished: Sequence[bool], settings: Shaping, device: torch.device) -> Tensor:
    """(B,) what stands on the last token."""
    outcome = [settings.outcome_unlabelled if r.outcome is None else r.outcome for r in rewards]
    bonus_B = torch.tensor([r.bonus for r in rewards], device=device)
    terminal_B = settings.outcome_scale * torch.tensor(outcome, device=device, dtype=torch.float32) + bonus_B
    return terminal_B - settings.unfinished_penalty * (~torch.tensor(finished, device=device)).float()


def _pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Right-padded (B, S) values and their mask."""
    counts = torch.tensor([len(row) for row in rows])
    width = int(counts.max())
    padded = torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows], dtype=dtype).reshape(len(rows), width)
    return padded, torch.arange(width) < counts.unsqueeze(1)


def _metrics(
    rewards: Sequence[Reward],
    rollouts: Rollouts,
    mask_BT: Tensor,
    step_BT: Tensor,
    shaped_BS: Tensor,
    steps_BS: Tensor,
) -> dict[str, float]:
    count = len(rewards)
    scores = [score for reward in rewards for score in reward.step_scores]
    outcomes = [reward.outcome for reward in rewards if reward.outcome is not None]
    steps = max(int(steps_BS.sum()), 1)
    empty = sum(
        not text[start:end].strip()
        for reward, text in zip(rewards, rollouts.texts, strict=True)
        for start, end in zip([0, *reward.step_ends], reward.step_ends, strict=False)
    )
    metrics = {
        "step_rewards/score_mean": sum(scores) / max(len(scores), 1),
        "step_rewards/score_min_mean": sum(min(r.step_scores, default=0.0) for r in rewards) / count,
        "step_rewards/mean": float(shaped_BS.sum()) / steps,
        "step_rewards/sum": float(step_BT.sum()) / count,  # a completion
        "rollout/unfinished": sum(not done for done in rollouts.finished) / count,
        "rollout/tokens": float(mask_BT.sum()) / count,
        "rollout/steps": float(steps_BS.sum()) / count,
        "rollout/tokens_per_step": float(mask_BT.sum()) / steps,
        "rollout/empty_steps": empty / steps,
    }
    if outcomes:
        metrics["reward/outcome"] = sum(outcomes) / len(outcomes)
    for name in sorted({name for reward in rewards for name in reward.extras}):
        values = [reward.extras[name] for reward in rewards if name in reward.extras]
        metrics[f"reward/{name}"] = sum(values) / len(values)
    return metrics
