"""Decoding one batch, token by token: what `rollout.generate` does with prompts of similar length.

Axes: P prompts, B rows (P x n completions), T tokens, V vocabulary, L prompt and completion together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_e2h.rl.endings import StopStrings
from rlhf_e2h.rl.kv_cache import BufferLayer, decoding_cache, kept_rows
from rlhf_e2h.rl.token_choice import choose_tokens

# Rows that have ended leave when they are this share of the batch: until then the work on them is less than the copies.
ENDED = 0.1
# Tokens in common (few-shot exemplars, a system prompt) from which on they are computed once for the whole batch.
SHARED = 64


@dataclass(frozen=True)
class Rule:
    """How a token is drawn, and what ends a completion."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    ends: frozenset[int]
    limit: int  # ids from here on are no tokens
    stop: StopStrings | None

    def draw(self, logits_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
        known_BV = logits_BV[:, : self.limit]
        return choose_tokens(known_BV, uniform_B, self.temperature, self.top_k, self.top_p, self.min_p)


def decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    n: int,
    rule: Rule,
    uniform_BT: Tensor,
    on_done: Callable[[int], None] | None = None,
) -> list[tuple[list[int], list[float]]]:
    """(token ids, log-probabilities) of n completions a prompt, the end token included.

    `on_done` is called as work is done, with how many completions it was worth since the last call: one that is being
    written counts as the share of `new_tokens` that it has. They end together, so counting ends would say nothing for
    most of a batch's time.
    """
    device, (total, new_tokens) = model.device, uniform_BT.shape
    width = max(map(len, prompts))
    tokens_BT = torch.full((total, new_tokens), -1, device=device)
    logprobs_BT = torch.zeros(total, new_tokens, device=device)
    ends_E = torch.tensor(sorted(rule.ends), device=device)
    alive_B = torch.arange(total, device=device)  # rows still in the batch, as indices into the full one
    going_B = torch.ones(total, dtype=torch.bool, device=device)  # of those, the rows that have not ended
    told = 0  # completions' worth of work
    with decoding_cache(model, width + new_tokens) as cache:
        logits_PV, mask_PL = _read_prompts(model, prompts, cache)
        position_P1 = mask_PL.sum(-1, keepdim=True) - 1
        if n > 1:
            cache.batch_repeat_interleave(n)
        logits_BV = logits_PV.repeat_interleave(n, 0)
        mask_BL = torch.ones(total, width + new_tokens, dtype=mask_PL.dtype, device=device)
        mask_BL[:, :width] = mask_PL.repeat_interleave(n, 0)
        position_B1 = position_P1.repeat_interleave(n, 0)
        for step in range(new_tokens):
            token_B, logprob_B = rule.draw(logits_BV, uniform_BT[alive_B, step])
            tokens_BT[alive_B[going_B], step], logprobs_BT[alive_B, step] = token_B[going_B], logprob_B
            going_B = going_B & ~torch.isin(token_B, ends_E)
            if rule.stop is not None:
                going_B &= ~_stopped(rule.stop, tokens_BT[alive_B, : step + 1], going_B)
            count = 0 if step + 1 == new_tokens else int(going_B.sum())
            worth = total - math.ceil(count * (1 - (step + 1) / new_tokens))
            if on_done and worth > told:
                on_done(worth - told)
                told = worth
            if not count:
                break
            if count <= (1 - ENDED) * len(going_B):
                keep = kept_rows(going_B)
                cache.batch_select_indices(keep)
                alive_B, token_B, mask_BL, position_B1 = alive_B[keep], token_B[keep], mask_BL[keep], position_B1[keep]
                going_B = going_B[keep]
            position_B1 = position_B1 + 1
            logits_BV = _forward(model, token_B[:, None], mask_BL[:, : width + step + 1], position_B1, cache)
    return _trim(tokens_BT, logprobs_BT)


def _read_prompts(model: Any, prompts: Sequence[Sequence[int]], cache: Any) -> tuple[Tensor, Tensor]:
    """(P, V) logits after each prompt, and which of the (P, L) places in the cache hold a token.

    What all prompts begin with is computed once; the padding then stands behind it, where nothing attends to it. Models
    whose cache looks back over a window of places get no such gap.
    """
    device, common = model.device, 0
    if isinstance(cache.layers[0] if cache.layers else None, BufferLayer):
        common = common_prefix(prompts)
    ids_PT, own_PT = _left_pad([prompt[common:] for prompt in prompts], device)
    mask_PL = torch.cat([own_PT.new_ones(len(prompts), common), own_PT], 1)
    position_PL = (mask_PL.cumsum(-1) - 1).clamp(min=0)
    if common:
        first_1C = torch.tensor([prompts[0][:common]], device=device)
        _forward(model, first_1C, mask_PL[:1, :common], position_PL[:1, :common], cache)
        cache.batch_repeat_interleave(len(prompts))
    return _forward(model, ids_PT, mask_PL, position_PL[:, common:], cache), mask_PL


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, less than the shortest; 0 if too few for a pass of their own."""
    low, high = min(map(list, prompts)), max(map(list, prompts))  # all others lie between them in alphabetical order
    limit = min(map(len, prompts)) - 1
    common = next((t for t in range(limit) if low[t] != high[t]), limit)
    return common if len(prompts) > 1 and common >= SHARED else 0


def _forward(model: Any, ids_BT: Tensor, mask_BL: Tensor, position_BT: Tensor, cache: Any) -> Tensor:
    """(B, V) logits after the last token."""
    # An index, not a number: a number makes a view of the states, for which torch copies a frozen output layer for each
    # row (seconds for a large vocabulary).
    last = torch.tensor([ids_BT.shape[1] - 1], device=ids_BT.device)
    logits: Tensor = model(
        input_ids=ids_BT,
        attention_mask=mask_BL,
        position_ids=position_BT,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=last,
    ).logits[:, -1]
    return logits


def _left_pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    # any id would do as padding: nothing attends to it
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def uniforms(rows: Sequence[int], length: int, seed: int) -> Tensor:
    """One random stream a row, so that what is sampled does not depend on how rows are batched. Shape (B, T)."""
    streams = [torch.Generator().manual_seed((seed * 2_000_003 + row) % 2**63) for row in rows]
    return torch.stack([torch.rand(length, generator=stream, dtype=torch.float64) for stream in streams])


def _stopped(stop: StopStrings, tokens_BT: Tensor, going_B: Tensor) -> Tensor:
    """(B,) rows of which the last token completes a stop string."""
    pairs = zip(tokens_BT.tolist(), going_B.tolist(), strict=True)
    return torch.tensor([going and stop.reached(ids) for ids, going in pairs], device=going_B.device)


def _trim(tokens_BT: Tensor, logprobs_BT: Tensor) -> list[tuple[list[int], list[float]]]:
    """(token ids, log-probabilities) of each row; -1 stands where a row had ended."""
    lengths = (tokens_BT >= 0).sum(1).tolist()
    rows = zip(tokens_BT.tolist(), logprobs_BT.tolist(), lengths, strict=True)
    return [(tokens[:length], logprobs[:length]) for tokens, logprobs, length in rows]
