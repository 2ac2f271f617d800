"""What the scoring benchmark works on: random models, random texts, and a clock."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reward_models.contract import StepContract
from reward_models.model import new_model

WORDS = ["so", "we", "add", "the", "two", "and", "get", "then", "subtract", "from", "total", "leaves", "apples", "day"]


def make_model(folder: Path, hidden: int, layers: int, seed: int = 0) -> Path:
    """A reward model of a shape, with a random head, saved with its contract."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=4096
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32 if hidden < 512 else hidden // 64,
        max_position_embeddings=4096,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    model = new_model(folder, StepContract("prm"))
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    return folder


def solutions(count: int, steps: tuple[int, int], words: int, seed: int, problem_words: int = 20) -> list:
    """(problem, steps) pairs of random words."""
    rng = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(length))

    return [
        (text(problem_words), [text(rng.randint(words // 2, words)) for _ in range(rng.randint(*steps))])
        for _ in range(count)
    ]


class Clock:
    """Wall time, or CPU time of this process, which other jobs on the machine disturb less (one thread only)."""

    def __init__(self, name: str) -> None:
        self.name, self._read = name, time.process_time if name == "cpu" else time.perf_counter

    def of(self, action: Callable[[], Any]) -> float:
        """Seconds that an action takes."""
        started = self._read()
        action()
        return self._read() - started

    def compare(self, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> dict[str, Any]:
        """Both in turn after a warm-up each; the median of the ratios theirs / ours, their range and the medians."""
        ours(), theirs()
        pairs = [(self.of(ours), self.of(theirs)) for _ in range(repeats)]
        return ratios(pairs)


def ratios(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Summary of (ours, theirs) seconds of interleaved repeats."""
    found = sorted(theirs / ours for ours, theirs in pairs)
    return {
        "speedup": statistics.median(found),
        "range": [found[0], found[-1]],
        "repeats": len(found),
        "ours_s": statistics.median(ours for ours, _ in pairs),
        "theirs_s": statistics.median(theirs for _, theirs in pairs),
    }
