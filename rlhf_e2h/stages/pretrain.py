"""Train the small base model that ships with the package, from nothing, on texts of the procedural world.

With `steps: 0` the model stays random: what the smoke recipes use on real text.
Writes a model folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

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
    block: int = 384  # tokens a training sequence; several problems stand in one
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(max_steps=0))  # max_steps 0: no training


def main(config: Config, run: StageRun) -> None:
    model, tokenizer = new_llama(config.shape, config.tokenizer, run.seed)
    settings = config.training
    if settings.max_steps > 0:
        blocks = _Blocks(config, tokenizer, settings.max_steps * settings.batch_size, run.seed)
        arguments = TrainingArguments(**trainer_arguments(settings, run), adam_beta2=0.98, dataloader_drop_last=True)
        metrics = fit(Trainer(model, arguments, train_dataset=blocks), run, "pretraining")
        run.finish(loss=metrics["train_loss"])
    save_policy(model, tokenizer, run.out)
    run.finish(parameters=sum(p.numel() for p in model.parameters()))


class _Blocks(torch.utils.data.Dataset):
    """Fresh text for every block: block i is made from seed (seed, i), so that order and resumption do not matter."""

    def __init__(self, config: Config, tokenizer, count: int, seed: int) -> None:
        self.config, self.tokenizer, self.count, self.seed = config, tokenizer, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, index])
        texts, characters = [], 0
        while characters < 2 * self.config.block:  # a section mark is one token of many characters: make plenty
            problem, steps, answer = world_text(rng, self.config.world, self.config.level_weights)
            texts.append(SECTIONS.prompt(problem) + SECTIONS.solution(steps, answer) + self.tokenizer.eos_token)
            characters += len(texts[-1])
        ids = torch.tensor(self.tokenizer("".join(texts))["input_ids"][: self.config.block])
        return {"input_ids": ids, "labels": ids}
