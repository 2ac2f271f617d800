"""Tokenizers that need no download: one for the procedural world, one for any text (bytes)."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_e2h.data.procedural import LETTERS, MARKED_SECTION, MARKS, MODULUS, OPERATORS

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
_WORDS = ["\n\n", "# Question", "# Solution", "# Answer", MARKED_SECTION, *MARKS]


def procedural_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, a section mark, a blank line, or an expression that a step works out: 4+3= is one of 102.

    With expressions of one token a small model has to look up pairs (expression, result) where it checks a step; from
    single characters that is a conjunction of four, which a model of a million weights learns late or not at all.
    """
    digits = range(MODULUS)
    expressions = [f"{left}{operator}{right}=" for left in digits for operator in OPERATORS for right in digits]
    characters = list("0123456789" + LETTERS + OPERATORS + "=;? ")
    vocabulary = {t: index for index, t in enumerate([PAD, EOS, UNKNOWN, *_WORDS, *characters, *expressions])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    expression = f"[0-{MODULUS - 1}][{OPERATORS}][0-{MODULUS - 1}]="
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*_WORDS, expression, "[\\s\\S]"])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every UTF-8 byte is a token, so any text round-trips: LaTeX, other scripts, figures."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


BUILDERS = {"procedural": procedural_tokenizer, "byte": byte_tokenizer}
