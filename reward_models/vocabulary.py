"""Do a tokenizer and a model's embeddings belong together? Asked when a model is opened, before the first batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def fit_vocabulary(tokenizer: Any, rows: int, path: str | Path) -> None:
    """See that every token has one of the embedding's `rows`; EOS replaces a pad token without one, which is said.

    Padding is masked by length everywhere, so what pads does not matter. Embeddings larger than the tokenizer, as Qwen
    pads them, are in order.

    Raises:
        ValueError: other tokens lie outside the embedding, so a text that holds one would stop the model.
    """
    pad = tokenizer.pad_token_id
    if pad is not None and pad >= rows and tokenizer.eos_token_id is not None:
        log.warning(
            "%s: pad token %s has id %d, but the model has embeddings for %d tokens; EOS pads instead",
            path, tokenizer.pad_token, pad, rows,
        )  # fmt: skip
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) <= rows:
        return
    # a pad token that was replaced stays in the vocabulary; no text holds it
    outside = {token: index for token, index in tokenizer.get_vocab().items() if index >= rows}
    # and classes of `transformers` add an unknown token that their byte-level tokenizers never give
    outside = {
        token: index for token, index in outside.items() if "pad" not in token.lower() and token != tokenizer.unk_token
    }
    if outside:
        token, index = min(outside.items(), key=lambda item: item[1])
        raise ValueError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, but the model has embeddings for {rows}: {token!r} "
            f"has id {index}. Take the tokenizer that belongs to this model, or add the rows "
            "(model.resize_token_embeddings(len(tokenizer))), train them and save both"
        )
