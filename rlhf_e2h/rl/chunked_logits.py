"""Log-probabilities and entropies of tokens without their logits all at once.

A causal language model gives (B, K, V) logits; with a vocabulary of 152,000 they, and what is computed from them in
float32, are by far the largest tensors of PPO. Here the output layer is replaced, for one forward pass of the whole
model, by one that reads the hidden states of real tokens a chunk at a time and gives two numbers a token. The pass is
the model's own, so what DeepSpeed and FSDP do around it still happens. A trained output layer computes each chunk again
in the backward pass; one that is frozen, as under adapters, has by then given the gradient of its input.

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
BLOCK = 2**19  # of those, on a CPU, in float32 at once: what its cache holds


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
    asked = _Asked(temperature, limit, entropy)
    read = partial(_read, places=places, size=size, asked=asked)
    if head is None or getattr(head, "_e2h_changed_later", False):
        return read(_forward(model, inputs), lambda logits: logits)
    original, replaced, given = head.forward, head.__dict__.get("forward"), []
    frozen = type(head) is nn.Linear and not any(one.requires_grad for one in head.parameters())

    def forward(hidden_BKH: Tensor) -> Tensor:
        given.append(read(hidden_BKH, original, weight=head.weight if frozen else None))
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


class _Asked(NamedTuple):
    temperature: float
    limit: int | None
    entropy: bool


def _read(
    states_BKH: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    places: Places,
    size: int,
    asked: _Asked,
    weight: Tensor | None = None,
) -> Tensor:
    """(N, 2) log-probabilities and entropies from the states, or the logits, of all positions.

    `weight`: that of `to_logits` if it is a frozen linear layer.
    """
    states_NH = states_BKH[places.rows, places.columns]
    several = len(states_NH) > size  # one chunk without gradient is small: plain torch
    if (weight is not None) if torch.is_grad_enabled() else several:
        pairs: Tensor = _WithoutLogits.apply(states_NH, to_logits, weight, places.ids, size, asked)
        return pairs
    chunk = partial(_chunk, to_logits, asked)
    pieces = []
    for states, ids in zip(states_NH.split(size), places.ids.split(size), strict=True):
        if several:
            pieces.append(checkpoint(chunk, states, ids, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(chunk(states, ids))
    return torch.cat(pieces)


def _chunk(to_logits: Callable[[Tensor], Tensor], asked: _Asked, states_NH: Tensor, ids_N: Tensor) -> Tensor:
    logits_1NV = to_logits(states_NH[None])[..., : asked.limit]
    logprobs_N = token_logprobs(logits_1NV, ids_N[None], asked.temperature)[0]
    with torch.no_grad():
        entropy_N = token_entropy(logits_1NV, asked.temperature)[0] if asked.entropy else torch.zeros_like(logprobs_N)
    return torch.stack([logprobs_N, entropy_N], -1)


class _WithoutLogits(torch.autograd.Function):
    """Log-probabilities and entropies of a frozen output layer; of the first, with the gradient of its input.

    With p the softmax of logits z / temperature and W the layer's weight, log p(token) has the gradient
    (onehot(token) - p) W / temperature, which takes nothing that is not at hand when p is: H numbers a token are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, states_NH: Tensor, to_logits: Any, weight: Tensor | None, ids_N: Tensor, size: int, asked: _Asked
    ) -> Tensor:
        pairs, slopes = [], []
        for states, ids in zip(states_NH.split(size), ids_N.split(size), strict=True):
            logits_NV = to_logits(states[None])[0, :, : asked.limit]
            if not ctx.needs_input_grad[0] or weight is None:
                pairs.append(_statistics(logits_NV, ids, asked))
                continue
            away_NV = torch.empty_like(logits_NV)
            pairs.append(_statistics(logits_NV, ids, asked, away_NV))
            slopes.append(away_NV @ weight[: asked.limit].to(away_NV.dtype) / asked.temperature)
        ctx.save_for_backward(*slopes)
        ctx.dtype = states_NH.dtype
        return torch.cat(pairs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slopes_NH = torch.cat(ctx.saved_tensors)
        return (gradients[0][:, :1] * slopes_NH).to(ctx.dtype), None, None, None, None, None


def _statistics(logits_NV: Tensor, ids_N: Tensor, asked: _Asked, away_NV: Tensor | None = None) -> Tensor:
    """(N, 2) log-probabilities and entropies, in float32; into `away_NV`, if given, onehot(token) - p."""
    size = max(1, BLOCK // logits_NV.shape[1]) if logits_NV.device.type == "cpu" else len(logits_NV)
    found = torch.zeros(len(logits_NV), 2, device=logits_NV.device)
    for start in range(0, len(logits_NV), size):
        rows = slice(start, start + size)
        values = logits_NV[rows].float()
        if asked.temperature != 1:
            values = values / asked.temperature
        values = values - values.amax(-1, keepdim=True)
        weights = values.exp()
        total_N1, ids_N1 = weights.sum(-1, keepdim=True), ids_N[rows, None]
        found[rows, :1] = values.gather(-1, ids_N1) - total_N1.log()
        if asked.entropy:
            found[rows, 1] = (total_N1.log() - (weights * values).sum(-1, keepdim=True) / total_N1)[:, 0]
        if away_NV is not None:
            weights.div_(-total_N1).scatter_add_(-1, ids_N1, torch.ones_like(total_N1))
            away_NV[rows] = weights
    return found
