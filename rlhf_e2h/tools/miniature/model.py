"""A tiny model of the same architecture and tokenizer family as a large one, made here and not downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runner.config import ConfigError, nearest

STEPS, ROWS = 160, 8


@dataclass(frozen=True)
class Family:
    """What a tiny model shares with the large one: the class, how its tokenizer cuts text, whether embeddings are tied.

    `sentencepiece` (Llama 2 and its kin): BOS in front, blanks as visible marks, bytes for unknown characters, no pad
    token. `byte_level` (Qwen 2): no BOS, and padding shares the id of the end-of-text token.
    """

    model_type: str
    tokenizer: str
    tied: bool = False


FAMILIES = {
    "llemma": Family("llama", "sentencepiece"),
    "codellama": Family("llama", "sentencepiece"),
    "llama": Family("llama", "sentencepiece"),
    "qwen2.5-math-1.5b": Family("qwen2", "byte_level", tied=True),
    "qwen2.5": Family("qwen2", "byte_level"),
    "qwen2": Family("qwen2", "byte_level"),
}


def family_of(base: str) -> Family:
    """The family of a hub id or model folder, by the `model_type` of its config.json or by its name.

    Raises:
        ConfigError: a model that is not in `FAMILIES`.
    """
    folder_config = Path(base) / "config.json"
    name = base.rpartition("/")[2].lower().replace("_", "-")
    if folder_config.is_file():
        name = json.loads(folder_config.read_text(encoding="utf-8"))["model_type"]
    for key, family in FAMILIES.items():
        if name.startswith(key):
            return family
    raise ConfigError(f"model=tiny: no tiny model like {base!r}; {nearest(name, FAMILIES)}")


def make_tiny(base: str, problems: Sequence[str], endings: Sequence[str], out: Path) -> Path:
    """Save a model of about 50,000 random weights like `base`, taught only how a solution ends; returns `out`.

    A purely random model never ends a solution, so nothing would reach grading, voting and the reward models. This one
    has seen `problem -> one step, a short ending, end of text` and guesses; it can solve nothing.

    Args:
        problems: problem texts; the tokenizer is trained on them.
        endings: answers to guess from: digits for MATH, programs for APPS.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    family = family_of(base)
    texts = [SECTIONS.prompt(p) + SECTIONS.solution(["So."], endings[i % len(endings)]) for i, p in enumerate(problems)]
    tokenizer = _tokenizer(family.tokenizer, texts)
    model = _model(family, tokenizer)
    _teach_endings(model, tokenizer, list(_lessons(problems, endings)))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def _model(family: Family, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family.model_type,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,  # grouped queries, as in the 34B and Qwen models
        max_position_embeddings=4096,
        tie_word_embeddings=family.tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return AutoModelForCausalLM.from_config(config)


def _lessons(problems: Sequence[str], endings: Sequence[str]) -> Iterator[list[str]]:
    for step in range(STEPS):
        rows = [(step * ROWS + row) % len(problems) for row in range(ROWS)]
        texts = [SECTIONS.prompt(problems[i][-40:]) for i in rows]
        yield [
            text + SECTIONS.solution(["So."], endings[(step + row) % len(endings)]) for row, text in enumerate(texts)
        ]


def _teach_endings(model: Any, tokenizer: Any, lessons: Sequence[Sequence[str]]) -> None:
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    padding = tokenizer.eos_token_id  # masked below by length
    for texts in lessons:
        rows = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
        width = max(map(len, rows))
        ids_BT = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT.masked_fill(mask_BT == 0, -100)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def _tokenizer(style: str, texts: Sequence[str]) -> Any:
    return {"sentencepiece": _sentencepiece_like, "byte_level": _byte_level}[style](texts)


def _sentencepiece_like(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False)
    # Without newlines in training they stay bytes (<0x0A>), as in the real vocabulary.
    tokenizer.train_from_iterator((line for text in texts for line in text.split("\n")), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _byte_level(texts: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # The pattern of Qwen 2: digits one by one, punctuation together with the newlines behind it.
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    pattern = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
