"""Sampling solutions: one decoding loop for the sample bank, for evaluation and for policy optimisation.

`generate` samples from softmax(logits / temperature), optionally restricted to the top-k tokens, and returns the
log-probability of every sampled token under *that* distribution: what a policy-gradient ratio has to be taken against.
The prompt of a problem is computed once for its n samples, rows leave the batch when they finish, and the result does
not depend on the batch size beyond floating-point noise, because each row draws from its own random stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.encoding import encode_prompts


@dataclass
class Rollouts:
    """B = prompts x n completions, the n samples of one prompt next to each other."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]  # EOS included where it was sampled
    logprobs: list[list[float]]  # one a completion token
    texts: list[str]  # without EOS
    finished: list[bool]  # EOS was sampled within the limit

    def __len__(self) -> int:
        return len(self.texts)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    n: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int = 256,
    seed: int = 0,
    batch_size: int = 256,
    on_batch: Callable[[int], None] | None = None,
    first_row: int = 0,
) -> Rollouts:
    """Sample `n` completions for each prompt; temperature 0 is greedy.

    Args:
        batch_size: completions decoded together.
        on_batch: called with the number of completions that have just been finished.
        first_row: number of the first completion in a larger batch of which `prompts` is a part, so that the parts,
            sampled by several processes, give what one process would sample.

    Raises:
        ValueError: n, temperature, top_k or a limit out of range, or an empty prompt.
    """
    check_sampling(prompts, n, temperature, top_k, max_new_tokens)
    was_training = model.training
    model.eval()
    encoded = encode_prompts(tokenizer, prompts)
    rows: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(prompts) * n)]
    # Prompts of similar length share a batch, so that padding costs little.
    order = sorted(range(len(prompts)), key=lambda p: len(encoded[p]))
    per_batch, at_once = max(1, batch_size // n), min(n, batch_size)
    for start, first in product(range(0, len(order), per_batch), range(0, n, at_once)):
        chosen, count = order[start : start + per_batch], min(at_once, n - first)
        rows_B = [p * n + first + k for p in chosen for k in range(count)]
        uniform_BT = _uniforms([first_row + row for row in rows_B], max_new_tokens, seed).to(model.device)
        done = _decode_batch(model, tokenizer, [encoded[p] for p in chosen], count, temperature, top_k, uniform_BT)
        for row, result in zip(rows_B, done, strict=True):
            rows[row] = result
        if on_batch:
            on_batch(len(done))
    model.train(was_training)
    return collect(tokenizer, encoded, rows, n)


def check_sampling(prompts: Sequence[str], n: int, temperature: float, top_k: int, max_new_tokens: int) -> None:
    if isinstance(prompts, str):
        raise ValueError("prompts is one text; give a list of texts")
    for name, value, least in [("n", n, 1), ("temperature", temperature, 0), ("top_k", top_k, 0)]:
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")


def _decode_batch(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    n: int,
    temperature: float,
    top_k: int,
    uniform_BT: torch.Tensor,
) -> list[tuple[list[int], list[float]]]:
    """Decode one batch; returns (token ids, log-probabilities) a row, EOS included."""
    device = model.device
    max_new_tokens = uniform_BT.shape[1]
    ids_PT, mask_PT = _left_pad(prompts, tokenizer.pad_token_id, device)
    position_PT = (mask_PT.cumsum(-1) - 1).clamp(min=0)
    output = model(
        input_ids=ids_PT,
        attention_mask=mask_PT,
        position_ids=position_PT,
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    if n > 1:
        cache.batch_repeat_interleave(n)
    logits_BV = output.logits[:, -1].repeat_interleave(n, 0)
    mask_BT = mask_PT.repeat_interleave(n, 0)
    position_B = position_PT[:, -1].repeat_interleave(n)
    total = len(logits_BV)
    tokens_BT = torch.full((total, max_new_tokens), -1, device=device)
    logprobs_BT = torch.zeros(total, max_new_tokens, device=device)
    alive_B = torch.arange(total, device=device)  # rows still in the batch, as indices into the full one
    for step in range(max_new_tokens):
        token_B, logprob_B = _sample(logits_BV, temperature, top_k, uniform_BT[alive_B, step])
        tokens_BT[alive_B, step], logprobs_BT[alive_B, step] = token_B, logprob_B
        going_B = token_B != tokenizer.eos_token_id
        if step + 1 == max_new_tokens or not bool(going_B.any()):
            break
        # Dropping finished rows copies the cache, so wait until it pays.
        if going_B.sum() < 0.75 * len(going_B):
            keep = going_B.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            alive_B, token_B, mask_BT, position_B = alive_B[keep], token_B[keep], mask_BT[keep], position_B[keep]
        position_B = position_B + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)
        output = model(
            input_ids=token_B[:, None],
            attention_mask=mask_BT,
            position_ids=position_B[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV = output.logits[:, -1]
    return _trim(tokens_BT, logprobs_BT, tokenizer.eos_token_id)


def _left_pad(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _uniforms(rows: list[int], length: int, seed: int) -> torch.Tensor:
    """One random stream a row, so that what is sampled does not depend on how rows are batched. Shape (B, T)."""
    streams = [torch.Generator().manual_seed((seed * 2_000_003 + row) % 2**63) for row in rows]
    return torch.stack([torch.rand(length, generator=stream, dtype=torch.float64) for stream in streams])


def _sample(
    logits_BV: torch.Tensor, temperature: float, top_k: int, uniform_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits_BV = logits_BV.float()
    if temperature == 0:
        logprob_BV = logits_BV.log_softmax(-1)
        token_B = logits_BV.argmax(-1)
    else:
        logits_BV = logits_BV / temperature
        if 0 < top_k < logits_BV.shape[-1]:
            least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
        logprob_BV = logits_BV.log_softmax(-1)
        # Inverse of the cumulative distribution; double precision, for vocabularies of 100,000 and more.
        cumulative_BV = logprob_BV.double().exp().cumsum(-1)
        threshold_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
        token_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(-1)
    return token_B, logprob_BV.gather(-1, token_B[:, None]).squeeze(-1)


def _trim(tokens_BT: torch.Tensor, logprobs_BT: torch.Tensor, eos: int) -> list[tuple[list[int], list[float]]]:
    results = []
    for tokens, logprobs in zip(tokens_BT.tolist(), logprobs_BT.tolist(), strict=True):
        # A finished row may have been decoded on for a while: cut it behind its first EOS.
        length = tokens.index(eos) + 1 if eos in tokens else (tokens.index(-1) if -1 in tokens else len(tokens))
        results.append((tokens[:length], logprobs[:length]))
    return results


def collect(
    tokenizer: Tokenizer, encoded: list[list[int]], rows: Sequence[tuple[list[int], list[float]]], n: int
) -> Rollouts:
    """Rollouts from (token ids, log-probabilities) of each completion, the n of a prompt next to each other."""
    eos = tokenizer.eos_token_id
    finished = [bool(ids) and ids[-1] == eos for ids, _ in rows]
    bare = [ids[:-1] if done else ids for (ids, _), done in zip(rows, finished, strict=True)]
    return Rollouts(
        prompt_ids=[encoded[row // n] for row in range(len(rows))],
        completion_ids=[ids for ids, _ in rows],
        logprobs=[logprobs for _, logprobs in rows],
        texts=tokenizer.batch_decode(bare, skip_special_tokens=False) if bare else [],
        finished=finished,
    )
