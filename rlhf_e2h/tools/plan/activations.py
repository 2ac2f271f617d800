"""Activations and logits, tensor by tensor, for gated decoders with fused attention. Pure arithmetic on bytes."""

from __future__ import annotations

from rlhf_e2h.tools.plan.memory import Trained
from rlhf_e2h.training.architecture import Architecture

LOGITS_TILE = 1024  # tokens whose logits TRL's fused head holds at once


def layer_bytes(model: Architecture, bf16: bool, adapters: bool = False, held: bool = False) -> float:
    """Kept for the backward pass of one layer, a token.

    Of each norm its input, the normalised value and the product with the weight; queries, keys, values and result of
    fused attention; gate, its activation, up and their product. Under autocast norms are float32 and the rest is bf16,
    and each of the five matrices after the norms casts its input anew. Frozen norms (adapters) do not keep the
    normalised value. `held`: the frozen weights are bf16, and so is what the norms give, which nothing casts.
    """
    half = 2 if bf16 else 4
    norms = model.hidden * (8 + (0 if adapters else 8) + (2 * 2 if held else 5 * 2 if bf16 else 2 * 4))
    attention = half * 2 * (model.queries + model.keys)
    return norms + attention + half * 4 * model.intermediate


def transient_bytes(model: Architecture, bf16: bool, autocast: bool = True) -> float:
    """Alive inside one layer without a backward pass, a token. Under autocast the residual is float32."""
    half = 2 if bf16 else 4
    return (4 if autocast else half) * 3 * model.hidden + half * 3 * model.intermediate


def kept(trained: Trained, tokens: int, bf16: bool, checkpointing: bool) -> float:
    """Kept for the backward pass of `tokens` tokens."""
    model = trained.model
    if trained.head_only:
        return tokens * (transient_bytes(model, bf16) + 4 * model.hidden)
    held = bf16 and trained.adapters > 0 and not trained.keeps_float32
    one = layer_bytes(model, bf16, trained.adapters > 0 or trained.freeze_norms, held)
    ends = 4 * 3 * model.hidden  # the last norm, and the residual it reads
    if checkpointing:
        return tokens * (model.layers * 4 * model.hidden + one + transient_bytes(model, bf16) + ends)
    return tokens * (model.layers * one + ends)


def logit_bytes(kind: str, bf16: bool) -> int:
    """Bytes for each kept token and vocabulary entry, at the worst moment.

    `ppo`: the model's logits, their float32 quotient by the temperature, and for the entropy log-softmax, exponential
    and product; the gradients that come later need less. `fused`: a tile of logits and its gradient in float32.
    `entropy`: the same as `ppo`, without the quotient that training keeps.
    """
    half = 2 if bf16 else 4
    return {"ppo": half + 4 + 4 + 4 + 4, "fused": 8, "entropy": half + 4 + 4 + 4, "none": 0}[kind]


def draw_bytes(bf16: bool) -> int:
    """Bytes a row and vocabulary entry while a token is drawn: logits, in float32, quotient, weights to draw from."""
    return (2 + 4 if bf16 else 4) + 4 + 4


def cache_bytes(model: Architecture, rows: int, length: int, size: float) -> float:
    """Keys and values of `rows` sequences of `length` tokens; `size` bytes a number.

    The buffers of one layer are there twice while they grow.
    """
    return 2 * size * rows * length * (model.layers + 1) * model.keys
