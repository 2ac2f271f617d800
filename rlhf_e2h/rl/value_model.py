"""The value model: a token classifier with one label, of the same class as the reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from reward_models.lora import never_pack, with_lora
from reward_models.model import head_of, load_model, quiet
from reward_models.one_reader import placement
from reward_models.settings import LoraSettings
from rlhf_e2h.rl.endings import token_limit


def value_from_reward_model(
    path: Path,
    policy_tokenizer: Tokenizer,
    zero_head: bool,
    dtype: torch.dtype = torch.float32,
    quantization: Any = None,
) -> PreTrainedModel:
    """A value model that starts from a reward model, with its head or with a new one that gives 0 everywhere.

    With `quantization`, as `reward_models.lora.four_bit` makes it, its trunk is in 4 bits.

    Raises:
        ValueError: the reward model reads other token ids than the policy writes, or has no embedding for some.
    """
    model, tokenizer, _ = load_model(path, "cpu", dtype, quantization)
    if tokenizer.get_vocab() != policy_tokenizer.get_vocab():
        raise ValueError(
            f"{path}: this reward model has another tokenizer than the policy, so it can give rewards (by text), but "
            "no value model can start from it; use value_init: policy"
        )
    embeddings: Any = model.get_input_embeddings()
    rows, needed = len(embeddings.weight), token_limit(policy_tokenizer)
    if rows < needed:
        raise ValueError(
            f"{path}: this reward model has embeddings for {rows} tokens, but the policy's tokenizer writes ids up to "
            f"{needed - 1}, so no value model can start from it; use value_init: policy"
        )
    if not quantization:
        model.requires_grad_(True)
    return _with_zero_head(model) if zero_head else model


def value_from_policy(
    path: str | Path, dtype: torch.dtype = torch.float32, quantization: Any = None
) -> PreTrainedModel:
    """A value model that starts from a causal language model, with a head that gives 0 everywhere."""
    with quiet():
        model = AutoModelForTokenClassification.from_pretrained(
            str(path), num_labels=1, dtype=dtype, quantization_config=quantization, **placement()
        )
    never_pack(model)
    return _with_zero_head(model)


def train_parts(model: PreTrainedModel, freeze_trunk: bool, lora: LoraSettings) -> Any:
    """The model with what is to be trained: all of it, its head alone, or LoRA adapters and its head."""
    if freeze_trunk:
        model.requires_grad_(False)
        head_of(model).requires_grad_(True)
        return model
    return with_lora(model, lora, scorer=True)


def _with_zero_head(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in head_of(model).parameters():
            parameter.zero_()
    return model
