"""Train the small base model that ships with the package, from nothing, on texts of the procedural world.

With `steps: 0` the model stays random: what the smoke recipes use on real text.
Writes a model folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from rlhf_e2h.config import Input
from rlhf_e2h.data.procedural import (
    EASY_LEVELS,
    MARKED_SECTION,
    READING_SECTION,
    READINGS,
    World,
    marked_text,
    second_reading,
    world_text,
)
from rlhf_e2h.models import ModelShape, load_policy, new_llama, save_policy
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runs import StageRun
from rlhf_e2h.training import TrainingSettings, fit, trainer_arguments

VERSION = 1
SEEDED = False  # one base model for all seeds of a run


@dataclass
class Config:
    """Settings of the `pretrain` stage."""

    start: Input | None = None  # a model to go on from; a new one of `shape` if not given
    tokenizer: str = "procedural"  # procedural, or byte for any text
    shape: ModelShape = field(default_factory=ModelShape)
    world: World = field(default_factory=World)  # how often its texts are wrong
    level_weights: dict[int, float] = field(default_factory=lambda: {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0})
    marked_share: float = 0.3  # of batches: solutions with the marks of a reader, who shares the world's misconceptions
    reading_share: float = 0.0  # of batches: solutions with what a second reader gets for each step
    several_share: float = 0.1  # of batches: several easy problems in one row
    several_end: bool = False  # behind these, one more of the batch's level: exemplars and a question
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(max_steps=0)
    )  # max_steps 0: no training


def main(config: Config, run: StageRun) -> None:
    if config.start:
        model, tokenizer = load_policy(run.path(config.start))
    else:
        model, tokenizer = new_llama(config.shape, config.tokenizer, run.seed)
    if config.reading_share and READING_SECTION not in tokenizer.get_vocab():
        _learn_words(model, tokenizer, {READING_SECTION: MARKED_SECTION} | {word: word.strip() for word in READINGS})
    settings = config.training
    if settings.max_steps > 0:
        arguments = TrainingArguments(
            **trainer_arguments(settings, run), adam_beta2=0.98, train_sampling_strategy="sequential"
        )
        collator = DataCollatorForSeq2Seq(tokenizer)
        texts = _Texts(config, tokenizer, run.seed)
        metrics = fit(Trainer(model, arguments, collator, train_dataset=texts), run, "pretraining")
        run.finish(loss=metrics["train_loss"])
    save_policy(model, tokenizer, run.out)
    run.finish(parameters=sum(p.numel() for p in model.parameters()))


def _learn_words(model: Any, tokenizer: Any, words: dict[str, str]) -> None:
    """Add tokens to a model, each starting as half the embedding of the known one that it resembles."""
    known = tokenizer.convert_tokens_to_ids(list(words.values()))
    tokenizer.add_tokens(list(words))
    embeddings = model.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight
    with torch.no_grad():
        embeddings[tokenizer.convert_tokens_to_ids(list(words))] = 0.5 * embeddings[known]


class _Texts(torch.utils.data.Dataset):
    """Fresh texts for every row: row i is made from seed (seed, i), so that order and resumption do not matter.

    The rows of one batch are of one kind and level, so that little is padded: solved problems, solutions with a
    reader's marks or a second reader's results, or three easy problems in a row, so that the model knows contexts as
    in-context baselines have them. The problems themselves are random text and not trained, nor are the careless steps
    that get a second reading: only the readings.
    """

    def __init__(self, config: Config, tokenizer: Any, seed: int) -> None:
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.levels = sorted(config.level_weights)
        weights = np.array([config.level_weights[level] for level in self.levels])
        self.shares = weights / weights.sum()
        others = (config.marked_share, config.several_share, config.reading_share)
        self.kinds = {"solved": 1 - sum(others), "marked": others[0], "several": others[1], "reading": others[2]}
        self.readings = set(tokenizer.convert_tokens_to_ids(list(READINGS))) if config.reading_share else set()

    def __len__(self) -> int:
        return self.config.training.max_steps * self.config.training.batch_size

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        batch = index // self.config.training.batch_size
        choice = np.random.default_rng([self.seed, batch])
        level = int(choice.choice(self.levels, p=self.shares))
        kind = str(choice.choice(list(self.kinds), p=list(self.kinds.values())))
        rng = np.random.default_rng([self.seed, batch, index])
        levels = [level]
        if kind == "several":
            levels = rng.choice(EASY_LEVELS, size=3).tolist() + [level] * self.config.several_end
        ids: list[int] = []
        labels: list[int] = []
        for one in levels:
            prompt, solution = self._text(rng, one, kind)
            ids += prompt + solution
            labels += [-100] * len(prompt)
            labels += [-100 if kind == "reading" and token not in self.readings else token for token in solution]
        return {"input_ids": ids, "labels": labels}

    def _text(self, rng: np.random.Generator, level: int, kind: str) -> tuple[list[int], list[int]]:
        section = {"marked": MARKED_SECTION, "reading": READING_SECTION}.get(kind)
        if section:
            problem, steps = (marked_text if kind == "marked" else second_reading)(rng, self.config.world, level)
            prompt = SECTIONS.prompt(problem).replace("# Solution", section)
            solution = SECTIONS.separator.join(steps)
        else:
            problem, steps, answer = world_text(rng, self.config.world, level)
            prompt, solution = SECTIONS.prompt(problem), SECTIONS.solution(steps, answer)
        encoded = self.tokenizer([prompt, solution])["input_ids"]
        return encoded[0], encoded[1] + [self.tokenizer.eos_token_id]
