"""Loading, making and saving causal language models and their tokenizers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from reward_models.adapters import forget_adapter, merge_adapter
from reward_models.causes import explained
from reward_models.lora import in_four_bits, never_pack, on_full_weights
from reward_models.model import load_tokenizer
from reward_models.one_reader import placement
from reward_models.peft_folder import is_adapter, load_merged
from reward_models.precision import engine_holds_weights
from reward_models.vocabulary import fit_vocabulary
from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.prompts import FORMATS, SECTIONS, TextFormat
from rlhf_e2h.rl.endings import note_end_tokens
from rlhf_e2h.runner.places import place_of
from rlhf_e2h.text_formats import FormatSettings, choose_format, from_dict, save_format
from rlhf_e2h.training.policy_card import policy_card, trained_template

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class ModelShape:
    """A Llama to be randomly initialised. The defaults are the shipped base model (0.87 million parameters)."""

    hidden: int = 128
    layers: int = 4
    intermediate: int = 384
    heads: int = 4
    max_positions: int = 2048


def new_llama(shape: ModelShape, tokenizer: str, seed: int) -> tuple[LlamaForCausalLM, Tokenizer]:
    """A randomly initialised Llama with one of the project's own tokenizers."""
    if tokenizer not in BUILDERS:
        raise ValueError(f"tokenizer {tokenizer!r} is not known; use one of {sorted(BUILDERS)}")
    made = BUILDERS[tokenizer]()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        pad_token_id=made.pad_token_id,
        eos_token_id=made.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), made


def policy_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model that writes.

    Raises:
        FileNotFoundError: a local folder without tokenizer files.
        ValueError: no end-of-text token.
    """
    tokenizer: Tokenizer = load_tokenizer(path, padding_side=None)
    if tokenizer.eos_token_id is None:
        raise ValueError(_NO_END.format(path))
    return tokenizer


_NO_END = (
    "{}: the tokenizer has no end-of-text token, so no solution could end; name one as `eos_token` in its "
    "tokenizer_config.json"
)


def load_policy(
    path: str | Path, dtype: str = "float32", quantization: Any = None
) -> tuple[PreTrainedModel, Tokenizer]:
    """A causal language model and its tokenizer, from a local folder or a hub id; a PEFT folder is merged.

    With `quantization`, as `reward_models.lora.four_bit` makes it, the weights are in 4 bits.

    Raises:
        FileNotFoundError: the folder lacks config or tokenizer.
        ValueError: unknown dtype, weights in another format, or a tokenizer that does not belong to the model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; use one of {sorted(DTYPES)}")
    if quantization and (engine_holds_weights() or is_adapter(path)):
        raise ValueError(
            f"{path}: load_in_4bit is for whole models, under DDP or on one process; launch with ddp.yaml, or merge "
            "the adapter first"
        )
    check_model_folder(path)
    tokenizer = policy_tokenizer(path)
    with explained(path):
        if is_adapter(path):
            model = load_merged(path, DTYPES[dtype])
        else:
            options = {"dtype": DTYPES[dtype], "quantization_config": quantization, **placement()}
            model = AutoModelForCausalLM.from_pretrained(str(path), **options)
            never_pack(model)
    fit_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, path)
    note_end_tokens(tokenizer, model)
    return model, tokenizer


def check_model_folder(path: str | Path) -> None:
    """Say what is wrong with a folder that holds no model; hub ids pass.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: GGUF weights only.
    """
    folder = Path(path)
    if (folder / "config.json").is_file() or is_adapter(folder) or not (folder.exists() or folder.is_absolute()):
        return
    quantised = sorted(file.name for file in folder.glob("*.gguf"))
    if folder.suffix == ".gguf" and folder.is_file():
        folder, quantised = folder.parent, [folder.name]
    if quantised:
        raise ValueError(
            f"{folder}: holds GGUF weights only ({quantised[0]}), which cannot be trained; convert them (pip install "
            f"gguf): AutoModelForCausalLM.from_pretrained({str(folder)!r}, gguf_file={quantised[0]!r})"
            ".save_pretrained(OUT), the same with AutoTokenizer, and give OUT"
        )
    raise FileNotFoundError(f"{folder}: no model here (config.json is missing); give a model folder or a hub id")


@dataclass
class Policy:
    """A model, its tokenizer, and the text before every prompt (solved exemplars, for in-context baselines)."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    prefix: str = ""
    text_format: TextFormat = SECTIONS  # of prompts and of what it answers
    why: str = ""  # it is that format

    def prompt(self, problem: str) -> str:
        return self.prefix + self.text_format.prompt(problem)

    def limit(self, max_new_tokens: int) -> int:
        """Tokens of a completion: those of its solution, and those of its thought, which are counted apart."""
        return max_new_tokens + self.text_format.max_thinking_tokens


CONTEXT_FILE = "in_context.json"  # without weights: {"model": path or hub id, "prefix": text, "format": a format}


def open_policy(
    path: str | Path,
    dtype: str = "float32",
    device: torch.device | None = None,
    text_format: FormatSettings | None = None,
    sections: bool = False,
    quantization: Any = None,
) -> Policy:
    """A policy from a model folder, a hub id, or the output of an `icl` stage, with its text format.

    The format is that of the settings, else the one saved beside the policy, else chat where the tokenizer has a
    template, else sections; `sections`: the stage fine-tunes to sections where neither says otherwise.

    Without `device` it is on the GPU where there is one; but of several processes none does so: they may divide the
    weights first.
    """
    context = _in_context(path)
    if context is not None:
        base, prefix, used = context
        return Policy(*_placed(base, dtype, device), prefix, used, _EXEMPLARS)
    model, tokenizer = _placed(path, dtype, device, quantization)
    return Policy(model, tokenizer, "", *choose_format(text_format, path, tokenizer, sections))


_EXEMPLARS = "that of its exemplars"


def _in_context(path: str | Path) -> tuple[str, str, TextFormat] | None:
    """Model, text before every prompt, and format of an `icl` stage's output; None for other policies."""
    file = Path(path) / CONTEXT_FILE
    if not file.is_file():
        return None
    context = json.loads(file.read_text(encoding="utf-8"))
    saved = context.get("format", SECTIONS.name)  # older versions saved the name alone
    used = FORMATS[saved] if isinstance(saved, str) else from_dict(saved, str(file))
    return place_of(path, context["model"]), context["prefix"], used


def base_of_context(path: str | Path) -> str | Path:
    """The model behind an `icl` stage's output; other policies are their own."""
    context = _in_context(path)
    return path if context is None else context[0]


def policy_format(path: str | Path, settings: FormatSettings | None, sections: bool = False) -> tuple[TextFormat, str]:
    """The text format with which `open_policy` would open a policy, and why; no weights are read."""
    context = _in_context(path)
    if context is not None:
        return context[2], _EXEMPLARS
    return choose_format(settings, path, policy_tokenizer(path), sections)


def _placed(
    path: str | Path, dtype: str, device: torch.device | None, quantization: Any = None
) -> tuple[PreTrainedModel, Tokenizer]:
    model, tokenizer = load_policy(path, dtype, quantization)
    if quantization:
        return model, tokenizer  # put there by bitsandbytes, for good
    if device is None and torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        device = torch.device("cuda")
    if device is not None:
        torch.nn.Module.to(model, device)
    return model, tokenizer


def save_policy(model: Any, tokenizer: Tokenizer, out: Path, text_format: TextFormat | None = None) -> None:
    """Save as safetensors: a plain model, with its text format. A LoRA adapter is merged and kept in `adapter/`.

    Merged weights have the precision in which the base was stored. Weights that were trained themselves stay float32:
    rounding to bfloat16 would undo small updates (docs/howto/own_model.md), and other stages start from them.
    """
    forget_adapter(out)
    base = str(model.config.name_or_path)
    if hasattr(model, "merge_and_unload"):
        if in_four_bits(model):
            model = on_full_weights(model, AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
        model = merge_adapter(model, base, out)
    model.save_pretrained(out)
    if text_format is None:
        tokenizer.save_pretrained(out)
        return
    own, tokenizer.chat_template = tokenizer.chat_template, trained_template(text_format, tokenizer)
    tokenizer.save_pretrained(out)
    (out / "README.md").write_text(policy_card(text_format, tokenizer, base), encoding="utf-8")
    tokenizer.chat_template = own
    save_format(text_format, out)
