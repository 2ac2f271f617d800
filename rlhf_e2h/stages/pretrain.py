"""Train the small base model that ships with the package, from nothing, on texts of the procedural world.

With `steps: 0` the model stays random: what the smoke recipes use on real text.
Writes a model folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, Trainer

from reward_models.model import freeze_parts
from reward_models.settings import TrainerSettings
from rlhf_e2h.data.procedural import EASY_LEVELS, MARKED_SECTION, World, marked_text, world_text
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runner.config import Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.training.arguments import fit, trainer_arguments
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy

VERSION = 2
TRAITS = Traits(
    order=10,
    about="train a small base model from nothing (rebuilds the one that ships)",
    trains=True,
    seeded=False,  # one base model for all seeds of a run, unless `each_seed` is set
)


@dataclass
class PretrainSettings(TrainerSettings):
    """Of the small base model."""

    max_steps: int = 0  # 0: no training
    adam_beta2: float = 0.98

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse("the small base model is trained whole", "lora.r")


@dataclass
class Config:
    """Settings of the `pretrain` stage."""

    # random weights of its own for each seed of a run
    each_seed: bool = field(default=False, metadata={"added": True})
    start: Input | None = None  # a model to start from; a new one of `shape` if not given
    tokenizer: str = "procedural"  # procedural, or byte for any text
    shape: ModelShape = field(default_factory=ModelShape)
    world: World = field(default_factory=World)  # how often its texts are wrong
    level_weights: dict[int, float] = field(default_factory=lambda: {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0})
    marked_share: float = 0.3  # of batches: solutions with the marks of a reader, who shares the world's misconceptions
    several_share: float = 0.1  # of batches: several easy problems in one row
    training: PretrainSettings = field(default_factory=PretrainSettings)


def main(config: Config, run: StageRun) -> None:
    if config.start:
        model, tokenizer = load_policy(run.path(config.start))
    else:
        model, tokenizer = new_llama(config.shape, config.tokenizer, run.seed)
    settings = config.training
    if settings.max_steps > 0:
        freeze_parts(model, settings.freeze_embeddings, settings.freeze_norms)
        arguments = trainer_arguments(settings, run, train_sampling_strategy="sequential")
        collator = DataCollatorForSeq2Seq(tokenizer)
        texts = _Texts(config, tokenizer, run.seed)
        metrics = fit(Trainer(model, arguments, collator, train_dataset=texts), run, "pretraining")
        run.finish(loss=metrics["train_loss"])
    save_policy(model, tokenizer, run.out)
    run.finish(parameters=sum(p.numel() for p in model.parameters()))


class _Texts(torch.utils.data.Dataset):
    """Fresh texts for every row: row i is made from seed (seed, i), so that order and resumption do not matter.

    The rows of one batch are of one kind and level, so that little is padded: solved problems, solutions with a
    reader's marks, or three easy problems in a row, so that the model knows contexts as in-context baselines have them.
    The problems themselves are random text and not trained.
    """

    def __init__(self, config: Config, tokenizer: Any, seed: int) -> None:
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.levels = sorted(config.level_weights)
        weights = np.array([config.level_weights[level] for level in self.levels])
        self.shares = weights / weights.sum()
        self.kinds = (config.marked_share, config.several_share)

    def __len__(self) -> int:
        return self.config.training.max_steps * self.config.training.batch_size

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        batch = index // self.config.training.batch_size
        choice = np.random.default_rng([self.seed, batch])
        level = int(choice.choice(self.levels, p=self.shares))
        kind = choice.choice(["solved", "marked", "several"], p=[1 - sum(self.kinds), *self.kinds])
        rng = np.random.default_rng([self.seed, batch, index])
        ids: list[int] = []
        labels: list[int] = []
        for one in rng.choice(EASY_LEVELS, size=3).tolist() if kind == "several" else [level]:
            prompt, solution = self._text(rng, one, kind == "marked")
            ids += prompt + solution
            labels += [-100] * len(prompt) + solution
        return {"input_ids": ids, "labels": labels}

    def _text(self, rng: np.random.Generator, level: int, marked: bool) -> tuple[list[int], list[int]]:
        if marked:
            problem, steps = marked_text(rng, self.config.world, level)
            prompt = SECTIONS.prompt(problem).replace("# Solution", MARKED_SECTION)
            solution = SECTIONS.separator.join(steps)
        else:
            problem, steps, answer = world_text(rng, self.config.world, level)
            prompt, solution = SECTIONS.prompt(problem), SECTIONS.solution(steps, answer)
        encoded = self.tokenizer([prompt, solution])["input_ids"]
        return encoded[0], encoded[1] + [self.tokenizer.eos_token_id]
