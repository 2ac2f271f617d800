"""Causal attention on CPUs in blocks of queries with the keys up to their end, in the last layer only where it is read.

PyTorch's kernel (2.13) works through nearly the whole square of scores of a text of some hundred tokens, even when told
`is_causal`. Blocks leave most of its upper half out: 24 to 38 % of the time of attention at 128 to 300 tokens, for the
same values to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from reward_models.model import layer_stack

NAME = "reward_models_blocks"
BLOCK = 32  # queries; 16 and 64 were slower at 64 to 768 tokens


def causal_blocks(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of `transformers`: (B, heads, T, width) in, (B, T, heads, width) out.

    Without a mask (see `_mask`) tokens attend to all in front of them. All else goes to the `sdpa` of `transformers`.
    """
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    special = any(kwargs.get(name) is not None for name in ("position_bias", "cache")) or kwargs.get("dropout")
    if not causal or attention_mask is not None or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    if not hasattr(module, "read_outs"):
        return _everywhere(query, key, value, scaling), None
    line_R, place_R = module.read_outs
    return _at(line_R, place_R, query, key, value, scaling), None


def _everywhere(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    tokens, keys = query.shape[2], key.shape[2]
    # one mask for all blocks: each takes the columns that end with the triangle
    mask = query.new_zeros(BLOCK, keys + BLOCK)
    mask[:, keys:] = query.new_full((BLOCK, BLOCK), -torch.inf).triu(1)
    blocks = []
    for start in range(0, tokens, BLOCK):
        stop = min(tokens, start + BLOCK)
        end = keys - tokens + stop
        seen = mask[: stop - start, tokens - start : tokens - start + end]
        block = scaled_dot_product_attention(
            query[:, :, start:stop], key[:, :, :end], value[:, :, :end], attn_mask=seen, scale=scaling
        )
        blocks.append(block.transpose(1, 2))
    return torch.cat(blocks, 1)


def _at(
    line_R: torch.Tensor,
    place_R: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of the tokens (line, place) and 0 elsewhere, but for some tokens that fill up lines with fewer."""
    rows, heads, tokens, _ = query.shape
    if not len(line_R):
        return query.new_zeros(rows, tokens, heads, value.shape[3])
    wanted_BT = torch.zeros(rows, tokens, dtype=torch.bool)
    wanted_BT[line_R, place_R] = True
    most = int(wanted_BT.sum(1).max())
    place_BW = wanted_BT.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    line_B1 = torch.arange(rows)[:, None]
    before = key.shape[2] - tokens
    seen = torch.arange(key.shape[2]) <= before + place_BW[:, None, :, None]
    chosen = query.transpose(1, 2)[line_B1, place_BW].transpose(1, 2)
    found = scaled_dot_product_attention(chosen, key, value, attn_mask=seen, scale=scaling)
    # in the dtype of what is found: under autocast that is not the queries'
    output = found.new_zeros(rows, tokens, heads, value.shape[3])
    output[line_B1, place_BW] = found.transpose(1, 2)
    return output


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """No mask where the last tokens of full texts attend to all in front of them; else that of `sdpa`."""
    if mask_function is causal_mask_function and attention_mask is None and q_offset + q_length == kv_length:
        return None
    made: torch.Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **kwargs,
    )
    return made


AttentionInterface.register(NAME, causal_blocks)
AttentionMaskInterface.register(NAME, _mask)


@contextlib.contextmanager
def in_blocks(model: PreTrainedModel, line_R: torch.Tensor, place_R: torch.Tensor) -> Iterator[None]:
    """Inside, a model on a CPU attends in blocks in place of `sdpa`, in the last layer at tokens (line, place) only."""
    config = model.config
    plain = config._attn_implementation == "sdpa" and not config.sub_configs and model.device.type == "cpu"
    if not (plain and getattr(model, "_supports_attention_backend", False)):  # some write their own attention
        yield
        return
    last: list[Any] = [
        part for layer in layer_stack(model)[-1:] for part in layer.modules() if hasattr(part, "is_causal")
    ]
    config._attn_implementation = NAME
    for part in last:
        part.read_outs = (line_R, place_R)
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
        for part in last:
            del part.read_outs
