"""Train the small base model that ships with the package, from nothing, on texts of the procedural world.

With `steps: 0` the model stays random: what the smoke recipes use on real text.
Writes a model folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from rlhf_e2h.data.procedural import World, world_text
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
    row_tokens: int = 256  # tokens a training row; several short problems stand in one
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(max_steps=0)
    )  # max_steps 0: no training


def main(config: Config, run: StageRun) -> None:
    model, tokenizer = new_llama(config.shape, config.tokenizer, run.seed)
    settings = config.training
    if settings.max_steps > 0:
        texts = _Texts(config, tokenizer, settings.max_steps * settings.batch_size, run.seed)
        arguments = TrainingArguments(**trainer_arguments(settings, run), adam_beta2=0.98)
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        metrics = fit(Trainer(model, arguments, collator, train_dataset=texts), run, "pretraining")
        run.finish(loss=metrics["train_loss"])
    save_policy(model, tokenizer, run.out)
    run.finish(parameters=sum(p.numel() for p in model.parameters()))


class _Texts(torch.utils.data.Dataset):
    """Fresh texts for every row: row i is made from seed (seed, i), so that order and resumption do not matter.

    A row holds whole problems, one after the other, up to `row_tokens`; so the model knows contexts of several problems,
    as in-context baselines have them.
    """

    def __init__(self, config: Config, tokenizer: Any, count: int, seed: int) -> None:
        self.config, self.tokenizer, self.count, self.seed = config, tokenizer, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        rng = np.random.default_rng([self.seed, index])
        row: list[int] = []
        while True:
            problem, steps, answer = world_text(rng, self.config.world, self.config.level_weights)
            text = SECTIONS.prompt(problem) + SECTIONS.solution(steps, answer) + self.tokenizer.eos_token
            ids = self.tokenizer(text)["input_ids"]
            if row and len(row) + len(ids) > self.config.row_tokens:
                return {"input_ids": row}
            row += ids
