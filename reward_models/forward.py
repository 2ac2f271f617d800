"""Forward passes in evaluation mode that compute little more than what is read.

Only some tokens of the last layer are scoring positions, and nothing after that layer mixes tokens. So its queries,
output projection and feed-forward block run on those tokens alone; in a model of four layers they are a fifth of the
work.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from reward_models.attention import in_blocks
from reward_models.model import layer_stack


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each part in its own mode again afterwards (parts may be those of another model)."""
    training = [module for module in model.modules() if module.training]
    if not training:  # switching is more expensive than looking
        yield
        return
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def read_logits(
    model: PreTrainedModel,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor | None,
    line_R: torch.Tensor,
    place_R: torch.Tensor,
    shared: int = 0,
    prefix: DynamicCache | None = None,
) -> torch.Tensor:
    """Float32 logits (R,) at token `place_R` of row `line_R`.

    `mask_BT` is 1 on real tokens. Leave it out for a causal model padded on the right: real tokens never look at the
    padding, and the attention kernel without a mask is faster. The first `shared` tokens are the same in all rows and
    scoring positions come after them; they are computed for one row (causal models without mask only), or not at all
    where `prefix` is what `read_prefix` gave for them.
    """
    device = model.device
    ids_BT, line_R, place_R = ids_BT.to(device), line_R.to(device), place_R.to(device) - shared
    inputs: dict[str, Any] = {"input_ids": ids_BT[:, shared:]}
    if mask_BT is not None:
        inputs["attention_mask"] = mask_BT.to(device)
    if shared:
        if prefix is None:
            prefix = read_prefix(model, ids_BT[:1, :shared])
        inputs.update(past_key_values=_repeated(prefix, len(ids_BT)), use_cache=True)
    with _reading(model, line_R, place_R):
        logits_BT = model(**inputs).logits.squeeze(-1)
    return logits_BT[line_R, place_R].float().cpu()


def read_prefix(model: PreTrainedModel, ids_1T: torch.Tensor) -> DynamicCache:
    """Keys and values of tokens that stand in front of several texts, for `read_logits`."""
    cache = DynamicCache()
    nowhere = torch.empty(0, dtype=torch.long, device=model.device)
    with _reading(model, nowhere, nowhere):
        model(input_ids=ids_1T.to(model.device), past_key_values=cache, use_cache=True)  # fills the cache in place
    return cache


def _repeated(prefix: DynamicCache, rows: int) -> DynamicCache:
    copies = DynamicCache()
    for index, layer in enumerate(prefix.layers):
        held: Any = layer  # every cache layer of an attention model has keys and values (B, heads, T, width)
        copies.update(held.keys.expand(rows, -1, -1, -1), held.values.expand(rows, -1, -1, -1), index)
    return copies


@contextlib.contextmanager
def _reading(model: PreTrainedModel, line_R: torch.Tensor, place_R: torch.Tensor) -> Iterator[None]:
    """Evaluation mode in which the last layer computes what tokens (line, place) need and little more."""
    with evaluating(model), last_parts_at(model, line_R, place_R), in_blocks(model, line_R, place_R):
        yield


@contextlib.contextmanager
def last_parts_at(model: nn.Module, line_R: torch.Tensor, place_R: torch.Tensor) -> Iterator[None]:
    """Run the `last_parts` on the tokens (line, place) only; their output is 0 elsewhere."""
    handles: list[Any] = []
    for part in last_parts(model):
        shape: list[int] = []
        handles.append(part.register_forward_pre_hook(partial(_gather, line_R, place_R, shape)))
        handles.append(part.register_forward_hook(partial(_scatter, line_R, place_R, shape)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gather(
    line_R: torch.Tensor, place_R: torch.Tensor, shape: list[int], _: nn.Module, inputs: tuple[Any, ...]
) -> tuple[Any, ...]:
    shape[:] = inputs[0].shape[:2]
    return (inputs[0][line_R, place_R][None], *inputs[1:])


def _scatter(
    line_R: torch.Tensor, place_R: torch.Tensor, shape: list[int], _: nn.Module, __: Any, output_1RH: torch.Tensor
) -> torch.Tensor:
    output_BTH = output_1RH.new_zeros(*shape, output_1RH.shape[2])
    output_BTH[line_R, place_R] = output_1RH[0]
    return output_BTH


def last_parts(model: nn.Module) -> list[nn.Module]:
    """Parts of the last layer that treat each token by itself and serve only the tokens that are read.

    They are the queries, the projection behind attention, and the feed-forward block. Dense blocks that `transformers`
    names `...MLP` are such (Llama, Qwen, Mistral, Gemma, GPT-2, NeoX). Mixtures of experts have other names and are
    left alone, as are blocks that take more than the tokens (BLOOM adds the residual inside).
    """
    layer = next(iter(layer_stack(model)[-1:]), None)
    attention, block = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    parts = [getattr(attention, name, None) for name in ("q_proj", "o_proj")]
    if type(block).__name__.endswith("MLP"):
        parts.append(block)
    found = [part for part in parts if isinstance(part, nn.Module)]
    return [part for part in found if _inputs(part) == 1]


def _inputs(part: nn.Module) -> int:
    """Named parameters of `forward`; PEFT's layers, which may stand in the place of others, take any more besides."""
    kinds = [parameter.kind for parameter in inspect.signature(part.forward).parameters.values()]
    return sum(kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for kind in kinds)


@torch.inference_mode()
def keeps_texts_apart(model: PreTrainedModel) -> bool:
    """Whether two texts in one row, told apart by `position_ids` that start again, are read as each alone would be."""
    whole: Any = model
    inner = whole.get_base_model() if hasattr(whole, "get_base_model") else whole  # inside adapters
    body, device = inner.base_model, model.device
    ids_1T = torch.arange(1, 9, device=device)[None] % model.config.vocab_size
    places_1T = torch.arange(8, device=device)[None]
    with evaluating(model):
        try:
            alone = body(input_ids=ids_1T).last_hidden_state
            packed = body(
                input_ids=torch.cat([ids_1T.flip(1), ids_1T], 1), position_ids=torch.cat([places_1T, places_1T], 1)
            ).last_hidden_state
        except TypeError:  # an architecture that takes no position_ids
            return False
    return torch.allclose(alone.float(), packed[:, 8:].float(), atol=1e-2 if alone.dtype != torch.float32 else 1e-4)
