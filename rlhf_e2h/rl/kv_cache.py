"""Keys and values of a decoding batch, in buffers that are written in place, and attention that reads them once.

The cache of transformers is concatenated anew at each token, and its attention under a mask repeats the key and value
heads of grouped-query attention for each query head: with 14 query heads on 2, at 64 rows and 320 tokens, it takes
twenty times as long as reading them once. Axes: B rows, H heads, T tokens, D width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reward_models.prefix import can_share

NAME = "e2h_grouped"
STEP = 256  # tokens by which the buffers grow; room for all at once is a waste where most completions are short


class BufferLayer(DynamicLayer):
    """A layer's keys and values in buffers with room to grow, in the precision that attention computes in."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.length = limit, 0
        self.buffers: list[Tensor] = []  # keys and values, (B, H, room, D)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[2]
        new = (key_states, value_states)
        if not self.buffers:
            self.is_initialized = True
            room = self.length if self.length > 1 else self._room()  # after a prompt the rows are repeated anyway
            self.buffers = [_empty(part, len(part), room) for part in new]
        elif self.length > self.buffers[0].shape[2]:
            self.buffers = [_moved(buffer, len(buffer), self._room(), start) for buffer in self.buffers]
        for buffer, part in zip(self.buffers, new, strict=True):
            buffer[:, :, start : self.length] = part
        return self._views()

    def _room(self) -> int:
        return max(self.length, min(self.limit, self.length + STEP))

    def _views(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.buffers:
            rows = torch.arange(len(self.buffers[0]), device=self.buffers[0].device).repeat_interleave(repeats)
            self.buffers = [_moved(buffer, rows, self._room(), self.length) for buffer in self.buffers]
            self._views()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows. A row that stays where it is costs nothing."""
        if not self.buffers:
            return
        places = torch.arange(len(indices), device=indices.device)
        moving = (indices != places).nonzero().squeeze(-1)
        for number, buffer in enumerate(self.buffers):
            if len(moving):
                buffer[moving, :, : self.length] = buffer[indices[moving], :, : self.length]
            self.buffers[number] = buffer[: len(indices)]
        self._views()


def _empty(like: Tensor, rows: int, room: int) -> Tensor:
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    return torch.empty(rows, like.shape[1], room, like.shape[3], dtype=dtype, device=like.device)


def _moved(buffer: Tensor, rows: int | Tensor, room: int, length: int) -> Tensor:
    """A larger buffer with all rows of the old one, or with these."""
    count = rows if isinstance(rows, int) else len(rows)
    larger = buffer.new_empty(count, buffer.shape[1], room, buffer.shape[3])
    larger[:, :, :length] = buffer[:, :, :length] if isinstance(rows, int) else buffer[rows, :, :length]
    return larger


def kept_rows(going_B: Tensor) -> Tensor:
    """Rows that go on, in an order that leaves in place all that can stay: those behind fill up the gaps in front."""
    keep = going_B.nonzero().squeeze(-1)
    count = len(keep)
    order = torch.arange(count, device=going_B.device)
    order[~going_B[:count]] = keep[keep >= count]
    return order


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: (B, H, T, D) in, (B, T, H, D) out; for one new token without repeats.

    The query heads that share a key head are treated as queries of one head: one token attends to everything anyway.
    """
    rows, heads, tokens, width = query.shape
    special = any(kwargs.get(name) is not None for name in ("position_bias", "cache")) or kwargs.get("dropout")
    if tokens > 1 or heads == key.shape[1] or special:
        return sdpa_attention_forward(
            module, query.to(key.dtype), key, value, attention_mask, scaling=scaling, **kwargs
        )
    grouped = query.to(key.dtype).reshape(rows, key.shape[1], -1, width)
    found = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def decoding_cache(model: Any, limit: int) -> Iterator[Cache]:
    """A cache for at most `limit` tokens a row; inside, the model attends with it.

    Models with sliding windows, state spaces or an attention of their own get the cache of transformers.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside adapters
    config = inner.config
    plain = config._attn_implementation == "sdpa" and not config.sub_configs and can_share(config)
    if not (plain and getattr(inner, "_supports_attention_backend", False)):
        yield DynamicCache(config=config)
        return
    config._attn_implementation = NAME
    try:
        yield Cache(layers=[BufferLayer(limit) for _ in range(config.num_hidden_layers)])
    finally:
        config._attn_implementation = "sdpa"
