"""The one place that turns prompts and completions into token ids, for training and sampling alike.

A prompt gets the special tokens that the tokenizer puts before a text (BOS once, no EOS). A completion is encoded as it
continues its prompt, which is what the sampler's tokens are; a tokenizer with a dummy prefix (SentencePiece) would
otherwise begin it with a blank that no sampled text has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reward_models.special_tokens import encode_texts, leading_ids
from rlhf_e2h.runner.config import ConfigError

Ids = list[int]


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[Ids]:
    """Token ids of each prompt.

    Raises:
        ValueError: a prompt without tokens.
    """
    try:
        return encode_texts(tokenizer, prompts)
    except ValueError as error:
        raise ValueError(f"prompt: {error}; every prompt needs text") from None


def encode_rows(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Ids, Ids]]:
    """(prompt ids, completion ids with its end) of rows with `prompt`, `completion` and perhaps `end`.

    `end` is the text that ends a completion, such as a chat template's end of turn; without one it is EOS. A row whose
    `ends` is False goes on after its completion and gets no end. Prompt ids are those of `encode_prompts`, so that a
    policy is trained on the context in which it samples.
    """
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    completions = encode_completions(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])
    ends: dict[str, Ids] = {"": [tokenizer.eos_token_id]}
    for end in {str(row.get("end") or "") for row in rows} - {""}:
        ends[end] = list(tokenizer(end, add_special_tokens=False)["input_ids"])
    return [
        (prompt, completion + (ends[str(row.get("end") or "")] if row.get("ends", True) else []))
        for row, prompt, completion in zip(rows, prompts, completions, strict=True)
    ]


def encode_completions(tokenizer: Any, prompts: Sequence[str], completions: Sequence[str]) -> list[Ids]:
    """Ids of each completion after its prompt, without end.

    Where a token of the joined text straddles the boundary, the completion is encoded as the beginning of a line.
    """
    if not prompts:
        return []

    def bare(texts: Sequence[str]) -> list[Ids]:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    heads = bare(prompts)
    joined = bare([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])
    [line] = bare(["\n"])
    found = []
    for head, whole, completion in zip(heads, joined, completions, strict=True):
        if whole[: len(head)] != head:
            head = line
            [whole] = bare(["\n" + completion])
            if whole[: len(head)] != head:
                head = []
                [whole] = bare([completion])
        found.append(list(whole[len(head) :]))
    return found


def trl_rows(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, list[int]]]:
    """`encode_rows` as TRL's SFTTrainer reads encoded data: `input_ids` and `completion_mask`."""
    return [
        {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}
        for prompt, completion in encode_rows(tokenizer, rows)
    ]


def preference_rows(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, list[int]]]:
    """Rows with `prompt`, `chosen` and `rejected` as TRL's DPO collator reads them: ids of each part."""
    encoded = {
        name: encode_rows(tokenizer, [{**row, "completion": row[name]} for row in rows])
        for name in ("chosen", "rejected")
    }
    return [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for (prompt, chosen), (_, rejected) in zip(encoded["chosen"], encoded["rejected"], strict=True)
    ]


def check_positions(where: str, model: Any, lengths: Sequence[int], max_length: int) -> None:
    """Rows to train on, cut at `max_length`, fit the model's positions.

    Raises:
        ConfigError: one does not.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = min(max(lengths, default=0), max_length)
    if limit is not None and longest > limit:
        raise ConfigError(
            f"{where}: a row has {longest} tokens, but the model has {limit} positions; lower training.max_length from "
            f"{max_length} to {limit}"
        )


def check_context(
    where: str, model: Any, encoded: Sequence[Ids], max_new_tokens: int, names: Sequence[Any] | None = None
) -> None:
    """Prompts and what may follow them fit the model's positions: asked before a stage starts.

    Raises:
        ConfigError: some do not; names the first of them and what to lower.
    """
    limit = getattr(getattr(model, "config", model), "max_position_embeddings", None)
    if limit is None:
        return
    long = [index for index, ids in enumerate(encoded) if len(ids) + max_new_tokens > limit]
    if long:
        shown = ", ".join(str(names[i] if names else i) for i in long[:5]) + (", ..." if len(long) > 5 else "")
        room = limit - max(len(encoded[i]) for i in long)
        todo = f"lower max_new_tokens to at most {room}" if room > 0 else "leave these problems out"
        raise ConfigError(
            f"{where}: {len(long)} prompts with max_new_tokens {max_new_tokens} exceed the model's {limit} positions "
            f"({shown}); {todo}"
        )


__all__ = [
    "check_context",
    "check_positions",
    "encode_completions",
    "encode_prompts",
    "encode_rows",
    "leading_ids",
    "preference_rows",
    "trl_rows",
]
