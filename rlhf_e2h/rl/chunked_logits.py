"""Log-probabilities and entropies of tokens without their logits all at once.

A causal language model gives (B, K, V) logits; with a vocabulary of 152,000 they, and what is computed from them in
float32, are by far the largest tensors of PPO. Here the output layer is replaced, for one forward pass of the whole
model, by one that reads the hidden states of real tokens a chunk at a time and gives two numbers a token. The pass is
the model's own, so what DeepSpeed and FSDP do around it still happens. In training each chunk is computed again in the
backward pass.

Axes: B rows, K positions at the end of the rows, T completion tokens, N real tokens, V vocabulary, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf_e2h.rl.losses import token_entropy, token_logprobs

CHUNK = 2**25  # logits at once: 128 MiB in float32


class Wanted(NamedTuple):
    """Which tokens of some rows are asked for."""

    ids: Tensor  # (B, L) prompt, completion, padding
    keep: int  # positions at the end of L whose outputs are needed
    columns: Tensor  # (B, T) where, among the kept positions, the outputs for each completion token are
    mask: Tensor  # (B, T) True on completion tokens


class Places(NamedTuple):
    """Positions of a (B, K, H) tensor of states, and the token that follows each."""

    rows: Tensor  # (N,)
    columns: Tensor  # (N,)
    ids: Tensor  # (N,)


def token_outputs(
    model: nn.Module, wanted: Wanted, temperature: float, limit: int | None = None, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """(B, T) log-probabilities, with gradient, and entropies, without; 0 at padding, and entropies 0 if not wanted.

    Args:
        limit: ids from here on are no tokens and have no probability, as in sampling.
    """
    row_N, token_N = wanted.mask.nonzero(as_tuple=True)
    column_N = wanted.columns[row_N, token_N]
    # the output at a position is about the token after it
    places = Places(row_N, column_N, wanted.ids[:, 1 - wanted.keep :][row_N, column_N])
    inputs = {"input_ids": wanted.ids, "logits_to_keep": wanted.keep}
    pair_N2 = outputs_at(model, inputs, places, temperature, limit, entropy)
    pair_BT2 = torch.zeros(*wanted.mask.shape, 2, device=wanted.ids.device).index_put((row_N, token_N), pair_N2)
    return pair_BT2[..., 0], pair_BT2[..., 1].detach()


def outputs_at(
    model: nn.Module,
    inputs: Mapping[str, Any],
    places: Places,
    temperature: float = 1.0,
    limit: int | None = None,
    entropy: bool = True,
) -> Tensor:
    """(N, 2) log-probabilities and entropies of the tokens at some places of a forward pass on `inputs`."""
    plain: Any = model
    while hasattr(plain, "module"):  # inside DDP
        plain = plain.module
    plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain  # inside adapters
    head = plain.get_output_embeddings()
    size = max(1, CHUNK // (limit or plain.config.get_text_config().vocab_size))
    read = partial(_read, places=places, size=size, temperature=temperature, limit=limit, entropy=entropy)
    if head is None or getattr(head, "_e2h_changed_later", False):
        return read(_forward(model, inputs), lambda logits: logits)
    original, replaced, given = head.forward, head.__dict__.get("forward"), []

    def forward(hidden_BKH: Tensor) -> Tensor:
        given.append(read(hidden_BKH, original))
        return given[0]

    head.forward = forward
    try:
        found = _forward(model, inputs)
    finally:
        if replaced is None:
            del head.forward  # that of the class again
        else:
            head.forward = replaced
    # not necessarily the same tensor: DeepSpeed passes it through functions of its own
    if given and found.shape == given[0].shape and torch.equal(found, given[0]):
        return found
    # a model that changes its logits afterwards (a cap, a scale): it must have them
    head._e2h_changed_later = True
    return read(_forward(model, inputs), lambda logits: logits)


def _forward(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _read(
    states_BKH: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    places: Places,
    size: int,
    temperature: float,
    limit: int | None,
    entropy: bool,
) -> Tensor:
    """(N, 2) log-probabilities and entropies from the states, or the logits, of all positions."""
    states_NH = states_BKH[places.rows, places.columns]
    chunk = partial(_chunk, to_logits, temperature, limit, entropy)
    pieces = []
    for states, ids in zip(states_NH.split(size), places.ids.split(size), strict=True):
        if torch.is_grad_enabled() and len(states_NH) > size:
            pieces.append(checkpoint(chunk, states, ids, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(chunk(states, ids))
    return torch.cat(pieces)


def _chunk(
    to_logits: Callable[[Tensor], Tensor],
    temperature: float,
    limit: int | None,
    entropy: bool,
    states_NH: Tensor,
    ids_N: Tensor,
) -> Tensor:
    logits_1NV = to_logits(states_NH[None])[..., :limit]
    logprobs_N = token_logprobs(logits_1NV, ids_N[None], temperature)[0]
    with torch.no_grad():
        entropy_N = token_entropy(logits_1NV, temperature)[0] if entropy else torch.zeros_like(logprobs_N)
    return torch.stack([logprobs_N, entropy_N], -1)
