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
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.rl.decode import SHARED, Rule, common_prefix, decode_batch, uniforms
from rlhf_e2h.rl.endings import StopStrings, cut_at_end, cut_at_stop, end_tokens, token_limit, without_end

PADDING = 0.2  # of a batch's places, from which on the longer prompts get a batch of their own


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
        on_batch: called as work is done, with how many completions it was worth; see `decode_batch`.
        first_row: number of the first completion in a larger batch of which `prompts` is a part, so that the parts,
            sampled by several processes, give what one process would sample.

    Raises:
        ValueError: n, temperature, a filter or a limit out of range, or an empty prompt.
    """
    check_sampling(prompts, n, temperature, top_k, max_new_tokens, top_p, min_p, stop)
    rule = Rule(
        temperature, top_k, top_p, min_p, end_tokens(tokenizer, model), token_limit(tokenizer),
        StopStrings(tokenizer, stop) if stop else None,
    )  # fmt: skip
    was_training = model.training
    model.eval()
    encoded = encode_prompts(tokenizer, prompts)
    rows: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(prompts) * n)]
    at_once = min(n, batch_size)
    batches = similar_lengths(encoded, max(1, batch_size // n), max_new_tokens)
    for chosen, first in product(batches, range(0, n, at_once)):
        count = min(at_once, n - first)
        rows_B = [p * n + first + k for p in chosen for k in range(count)]
        uniform_BT = uniforms([first_row + row for row in rows_B], max_new_tokens, seed).to(model.device)
        done = decode_batch(model, [encoded[p] for p in chosen], count, rule, uniform_BT, on_batch)
        for row, result in zip(rows_B, done, strict=True):
            rows[row] = result
    model.train(was_training)
    return collect(tokenizer, encoded, rows, n, stop, rule.ends)


def similar_lengths(encoded: Sequence[Sequence[int]], most: int, new_tokens: int) -> list[list[int]]:
    """Indices of prompts in batches of at most `most`, by length, so that padding costs little.

    A batch is as wide as its longest prompt, when prompts are read and at every token after that. It ends where the
    next prompt would make more than `PADDING` of its places empty; a few tokens' difference is not worth a batch.
    """
    shared = common_prefix(encoded) if encoded else 0  # read once, so it is not padded
    own = [len(prompt) - shared for prompt in encoded]
    batches: list[list[int]] = []
    used = 0  # places of the last batch that hold a token, or may
    for index in sorted(range(len(own)), key=lambda p: own[p]):
        batch, wide = batches[-1] if batches else [], own[index] + new_tokens
        sparse = used + wide < (1 - PADDING) * wide * (len(batch) + 1)
        if not batch or len(batch) == most or (sparse and own[index] - own[batch[0]] > SHARED):
            batches.append([])
            used = 0
        batches[-1].append(index)
        used += wide
    return batches


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
