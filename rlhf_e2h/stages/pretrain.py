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

from rlhf_e2h.data.procedural import EASY_LEVELS, World, world_text
from rlhf_e2h.models import ModelShape, new_llama, save_policy
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runs import StageRun
from rlhf_e2h.training import TrainingSettings, fit, trainer_arguments

VERSION = 1
SEEDED = False  # one base model for all seeds of a run


@dataclass
class Config:
    """Settings of the `pretrain` stage."""

    tokenizer: str = "procedural"  # procedural, or byte for any text
    shape: ModelShape = field(default_factory=ModelShape)
    world: World = field(default_factory=World)  # how often its texts are wrong
    level_weights: dict[int, float] = field(default_factory=lambda: {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0})
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(max_steps=0)
    )  # max_steps 0: no training


def main(config: Config, run: StageRun) -> None:
    model, tokenizer = new_llama(config.shape, config.tokenizer, run.seed)
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


class _Texts(torch.utils.data.Dataset):
    """Fresh texts for every row: row i is made from seed (seed, i), so that order and resumption do not matter.

    The rows of one batch have the same level, so that little is padded; every eighth batch holds three easy problems a
    row, so that the model knows contexts of several problems, as in-context baselines have them. Only solutions are
    trained: the problems themselves are random text.
    """

    def __init__(self, config: Config, tokenizer: Any, seed: int) -> None:
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.levels = sorted(config.level_weights)
        weights = np.array([config.level_weights[level] for level in self.levels])
        self.shares = weights / weights.sum()

    def __len__(self) -> int:
        return self.config.training.max_steps * self.config.training.batch_size

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        batch = index // self.config.training.batch_size
        several = batch % 8 == 7
        level = int(np.random.default_rng([self.seed, batch]).choice(self.levels, p=self.shares))
        rng = np.random.default_rng([self.seed, batch, index])
        ids: list[int] = []
        labels: list[int] = []
        for level in rng.choice(EASY_LEVELS, size=3).tolist() if several else [level]:
            problem, steps, answer = world_text(rng, self.config.world, level)
            prompt = self.tokenizer(SECTIONS.prompt(problem))["input_ids"]
            solution = self.tokenizer(SECTIONS.solution(steps, answer))["input_ids"] + [self.tokenizer.eos_token_id]
            ids += prompt + solution
            labels += [-100] * len(prompt) + solution
        return {"input_ids": ids, "labels": labels}
