"""Sampling solutions: one decoding loop for the sample bank, for evaluation and for policy optimisation.

`generate` samples from softmax(logits / temperature), optionally restricted (`min_p`, `top_k`, `top_p`; ids that the
tokenizer does not know always are), and returns the log-probability of every sampled token under *that* distribution:
what a policy-gradient ratio has to be taken against. A completion ends at any end token of the tokenizer or of the
model's `generation_config`, or at a stop string. The prompt of a problem is computed once for its n samples, rows leave
the batch when they finish, and the result does not depend on the batch size beyond floating-point noise, because each
row draws from its own random stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.rl.endings import StopStrings, cut_at_end, cut_at_stop, end_tokens, token_limit, without_end
from rlhf_e2h.rl.token_choice import choose_tokens


@dataclass
class Rollouts:
    """B = prompts x n completions, the n samples of one prompt next to each other."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]  # the end token included where one was sampled
    logprobs: list[list[float]]  # one a completion token
    texts: list[str]  # without the end token, and without a stop string and what stands after it
    finished: list[bool]  # an end token was sampled within the limit, or a stop string reached

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
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
) -> Rollouts:
    """Sample `n` completions for each prompt; temperature 0 is greedy.

    Args:
        top_k, top_p, min_p: as in vLLM and transformers; 0, 1 and 0 leave the distribution as it is.
        stop: a completion is finished when it holds one of these texts, which is cut off with what stands after it.
        batch_size: completions decoded together.
        on_batch: called with the number of completions that have just been finished.
        first_row: number of the first completion in a larger batch of which `prompts` is a part, so that the parts,
            sampled by several processes, give what one process would sample.

    Raises:
        ValueError: n, temperature, a filter or a limit out of range, or an empty prompt.
    """
    check_sampling(prompts, n, temperature, top_k, max_new_tokens, top_p, min_p, stop)
    rule = _Rule(
        temperature, top_k, top_p, min_p, end_tokens(tokenizer, model), token_limit(tokenizer),
        StopStrings(tokenizer, stop) if stop else None,
    )  # fmt: skip
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
        done = _decode_batch(model, tokenizer, [encoded[p] for p in chosen], count, rule, uniform_BT)
        for row, result in zip(rows_B, done, strict=True):
            rows[row] = result
        if on_batch:
            on_batch(len(done))
    model.train(was_training)
    return collect(tokenizer, encoded, rows, n, stop, rule.ends)


@dataclass(frozen=True)
class _Rule:
    """How a token is drawn, and what ends a completion."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    ends: frozenset[int]
    limit: int  # ids from here on are no tokens
    stop: StopStrings | None

    def draw(self, logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known_BV = logits_BV[:, : self.limit]
        return choose_tokens(known_BV, uniform_B, self.temperature, self.top_k, self.top_p, self.min_p)


def check_sampling(
    prompts: Sequence[str],
    n: int,
    temperature: float,
    top_k: int,
    max_new_tokens: int,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
) -> None:
    """
    Raises:
        ValueError: what is out of range, and the range.
    """
    if isinstance(prompts, str):
        raise ValueError("prompts is one text; give a list of texts")
    for name, value, least in [("n", n, 1), ("temperature", temperature, 0), ("top_k", top_k, 0)]:
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    check_filters(top_p, min_p, stop)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")


def check_filters(top_p: float, min_p: float, stop: Sequence[str]) -> None:
    """
    Raises:
        ValueError: a filter out of range, or stop strings that are not a list of texts.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1, which keeps all tokens")
    if not 0 <= min_p < 1:
        raise ValueError(f"min_p is {min_p}; it must be at least 0, which keeps all tokens, and below 1")
    if isinstance(stop, str) or not all(isinstance(one, str) and one for one in stop):
        raise ValueError(f"stop is {stop!r}; give a list of texts, none of them empty")


def _decode_batch(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    n: int,
    rule: _Rule,
    uniform_BT: torch.Tensor,
) -> list[tuple[list[int], list[float]]]:
    """Decode one batch; returns (token ids, log-probabilities) a row, the end token included."""
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
    going_B = torch.ones(total, dtype=torch.bool, device=device)  # of those, the rows that have not ended
    ends_E = torch.tensor(sorted(rule.ends), device=device)
    for step in range(max_new_tokens):
        token_B, logprob_B = rule.draw(logits_BV, uniform_BT[alive_B, step])
        tokens_BT[alive_B[going_B], step], logprobs_BT[alive_B, step] = token_B[going_B], logprob_B
        going_B = going_B & ~torch.isin(token_B, ends_E)
        if rule.stop is not None:
            going_B &= ~_stopped(rule.stop, tokens_BT[alive_B, : step + 1], going_B)
        if step + 1 == max_new_tokens or not bool(going_B.any()):
            break
        # Dropping finished rows copies the cache, so wait until it pays.
        if going_B.sum() < 0.75 * len(going_B):
            keep = going_B.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            alive_B, token_B, mask_BT, position_B = alive_B[keep], token_B[keep], mask_BT[keep], position_B[keep]
            going_B = going_B[keep]
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
    return _trim(tokens_BT, logprobs_BT)


def _stopped(stop: StopStrings, tokens_BT: torch.Tensor, going_B: torch.Tensor) -> torch.Tensor:
    """(B,) rows of which the last token completes a stop string."""
    pairs = zip(tokens_BT.tolist(), going_B.tolist(), strict=True)
    return torch.tensor([going and stop.reached(ids) for ids, going in pairs], device=going_B.device)


def _left_pad(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _uniforms(rows: list[int], length: int, seed: int) -> torch.Tensor:
    """One random stream a row, so that what is sampled does not depend on how rows are batched. Shape (B, T)."""
    streams = [torch.Generator().manual_seed((seed * 2_000_003 + row) % 2**63) for row in rows]
    return torch.stack([torch.rand(length, generator=stream, dtype=torch.float64) for stream in streams])


def _trim(tokens_BT: torch.Tensor, logprobs_BT: torch.Tensor) -> list[tuple[list[int], list[float]]]:
    """(token ids, log-probabilities) of each row; -1 stands where a row had ended."""
    lengths = (tokens_BT >= 0).sum(1).tolist()
    rows = zip(tokens_BT.tolist(), logprobs_BT.tolist(), lengths, strict=True)
    return [(tokens[:length], logprobs[:length]) for tokens, logprobs, length in rows]


def collect(
    tokenizer: Tokenizer,
    encoded: list[list[int]],
    rows: Sequence[tuple[list[int], list[float]]],
    n: int,
    stop: Sequence[str] = (),
    ends: frozenset[int] | None = None,
) -> Rollouts:
    """Rollouts from (token ids, log-probabilities) of each completion, the n of a prompt next to each other.

    Every engine's completions come through here, so that all end alike. `ends` are those of `end_tokens` by default.
    """
    ends = end_tokens(tokenizer) if ends is None else ends
    cut = [cut_at_end(ids, ends) for ids, _ in rows]
    completions = [ids[:length] for (ids, _), length in zip(rows, cut, strict=True)]
    bare = [list(without_end(ids, ends)) for ids in completions]
    texts = tokenizer.batch_decode(bare, skip_special_tokens=False) if bare else []
    stopped = [cut_at_stop(text, stop) for text in texts]
    return Rollouts(
        prompt_ids=[encoded[row // n] for row in range(len(rows))],
        completion_ids=completions,
        logprobs=[logprobs[:length] for (_, logprobs), length in zip(rows, cut, strict=True)],
        texts=[text if short is None else short for text, short in zip(texts, stopped, strict=True)],
        finished=[
            len(ids) > len(inner) or short is not None
            for ids, inner, short in zip(completions, bare, stopped, strict=True)
        ],
    )
