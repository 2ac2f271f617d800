"""Special tokens that a tokenizer itself puts before a text: once, whatever the text begins with.

Tokenizers of Llama, Mistral and Gemma put BOS first, WordPiece [CLS]; byte-level BPE of Qwen nothing. Chat templates of
the first family write BOS themselves, so a text made by one must not get another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def leading_ids(tokenizer: Any) -> list[int]:
    """Ids that `tokenizer(text)` puts before the text's own, in order; empty where it puts none."""
    own = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = (start for start in range(len(whole) - len(own) + 1) if whole[start : start + len(own)] == own)
    return list(whole[: next(starts, 0)])


def leading_text(tokenizer: Any) -> str:
    """What `leading_ids` are as text; a chat template that spells them begins with it."""
    return "".join(tokenizer.convert_ids_to_tokens(leading_ids(tokenizer)))


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text behind `leading_ids`, which a text that spells them already has; nothing is put at the end.

    Raises:
        ValueError: a text without tokens of its own.
    """
    if not texts:
        return []
    leading = leading_ids(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    for index, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"text {index} has no tokens: {texts[index][:40]!r}; it needs text")
    return [list(ids) if ids[: len(leading)] == leading else [*leading, *ids] for ids in encoded]
