"""One sampler of skills for fine-tuning, reward models and RL prompts: its settings, and its places in a training loop.

Without a mixture the trainers keep their own order. With one, every batch is drawn by `skill_sampler.SkillSampler`;
the weights of each step are logged, and a killed run resumes with the same batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback

from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.training import mixtures
from rlhf_e2h.training.curricula import Curriculum, weights_at
from rlhf_e2h.training.skill_sampler import SkillSampler

Skill = Literal["level", "subject", "level_subject"]
STATE = "mixture.json"


@dataclass
class MixtureSettings:
    """Which skills make up each batch."""

    skill: Skill = "level"
    weights: Literal["size", "uniform", "given", "doremi", "skill_it"] = "size"
    given: dict[str, float] = field(default_factory=dict)  # for `given`: {"1": 0.5, "2": 0.5}, names in quotes
    curriculum: Curriculum = "none"  # staged, anti, linear, log or group: when skills open, easiest first
    start: float = 0.2  # linear and log: share of the examples open at the first step
    mixing: float = 0.2  # group: share of earlier skills in each stage
    graph: dict[str, list[str]] = field(default_factory=dict)  # skill_it: what each skill helps, beside itself
    eta: float = 0.5  # doremi, skill_it: size of an update
    update_every: int = 50  # doremi, skill_it: steps between updates
    items: int = 16  # doremi, skill_it: solutions of each skill kept from training to measure its loss

    def __post_init__(self) -> None:
        if (self.weights == "given") != bool(self.given):
            raise ValueError("`given` holds the shares of `weights: given`; set both or none")
        if self.weights in ("doremi", "skill_it") and self.curriculum != "none":
            raise ValueError(f"weights {self.weights!r} decide for themselves; set curriculum: none")
        if self.update_every < 1 or self.items < 1:
            raise ValueError("update_every and items must be at least 1")

    @property
    def adaptive(self) -> bool:
        return self.weights in ("doremi", "skill_it")


def skill_of(row: Mapping[str, Any], skill: Skill) -> str:
    """The skill of a problem."""
    level, subject = str(row.get("level")), str(row.get("subject"))
    return {"level": level, "subject": subject, "level_subject": f"{level}/{subject}"}[skill]


def build_sampler(
    settings: MixtureSettings, problems: Sequence[Mapping[str, Any]], batch: int, steps: int, seed: int
) -> SkillSampler:
    """The sampler of examples, given the problem of each; skills are ordered by name, so levels from easy to hard.

    Raises:
        ValueError: given weights or a graph that do not fit the skills.
    """
    skills = [skill_of(row, settings.skill) for row in problems]
    order = sorted(set(skills))
    counts = [skills.count(skill) for skill in order]
    if settings.weights == "given":
        base = mixtures.normalised(settings.given, order)
    else:
        base = mixtures.by_size(counts) if settings.weights == "size" else mixtures.uniform(len(order))
    if settings.weights == "skill_it":
        base = mixtures.skill_it_weights(base, graph_matrix(settings.graph, order), [], settings.eta)

    def schedule(t: int) -> Any:
        return weights_at(t, steps, base, counts, settings.curriculum, settings.start, settings.mixing)

    return SkillSampler(skills, order, schedule, batch, seed)


def graph_matrix(graph: Mapping[str, Sequence[str]], order: Sequence[str]) -> Any:
    """The matrix A of a graph {skill: skills it helps}.

    Raises:
        ValueError: a name that is not a skill.
    """
    edges = np.eye(len(order))
    for name, helped in graph.items():
        for one in (name, *helped):
            if one not in order:
                raise ValueError(f"the skill graph names {one!r}, which is none of {', '.join(order)}")
        edges[order.index(name), [order.index(one) for one in helped]] = 1
    return mixtures.given_graph(edges)


class RowOrder(Sampler[int]):
    """The batches of a `SkillSampler` as the row order of a Hugging Face Trainer, epoch after epoch."""

    def __init__(self, sampler: SkillSampler, rows: int) -> None:
        self.sampler, self.rows, self.epoch = sampler, rows, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer, also when it resumes from a checkpoint."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        batches = math.ceil(self.rows / self.sampler.batch)
        left = self.rows
        for t in range(self.epoch * batches, (self.epoch + 1) * batches):
            yield from self.sampler.indices(t)[:left]  # the last batch of an epoch may be short
            left -= self.sampler.batch


def weight_metrics(sampler: SkillSampler, t: int) -> dict[str, float]:
    """The shares of batch t, for the log."""
    return {f"mixture/{skill}": float(w) for skill, w in zip(sampler.order, sampler.weights(t), strict=True)}


class Mixing(TrainerCallback):
    """Logs the weights at every logging step and, for DoReMi and Skill-It, decides them from the skills' losses.

    Args:
        losses: the loss (K,) of the model on held-out items of each skill.
        reference: the same of a reference model, for DoReMi.
    """

    def __init__(
        self,
        settings: MixtureSettings,
        sampler: SkillSampler,
        run: StageRun,
        losses: Callable[[Any], Sequence[float]] | None = None,
        reference: Sequence[float] | None = None,
    ) -> None:
        self.settings, self.sampler, self.run = settings, sampler, run
        self.losses, self.reference = losses, reference
        self.first = sampler.weights(0)
        self.history: list[dict[str, Any]] = []  # {"step", "losses", "weights"}

    @property
    def file(self) -> Path:
        return self.run.scratch / STATE

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step and self.file.is_file():
            saved = json.loads(self.file.read_text(encoding="utf-8"))
            self.history = [row for row in saved["history"] if row["step"] <= state.global_step]
            self.sampler.load_state_dict(saved["sampler"], state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.run.log(weight_metrics(self.sampler, max(0, state.global_step - 1)), step=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.losses is None or state.global_step % self.settings.update_every:
            return
        losses = [float(loss) for loss in self.losses(model)]
        weights = self._decided(losses)
        self.history.append({"step": state.global_step, "losses": losses, "weights": list(map(float, weights))})
        # the data loader may hold the next batch already, so the decision is for the one after it
        self.sampler.decide(state.global_step + 1, weights)
        if state.is_world_process_zero:
            named = zip(self.sampler.order, losses, strict=True)
            self.run.log({f"mixture/loss_{skill}": loss for skill, loss in named}, step=state.global_step)
            write_json(self.file, {"sampler": self.sampler.state_dict(), "history": self.history})

    def _decided(self, losses: Sequence[float]) -> Any:
        if self.settings.weights == "doremi":
            assert self.reference is not None
            last = self.history[-1]["weights"] if self.history else self.first
            return mixtures.doremi_step(last, np.asarray(losses) - np.asarray(self.reference), self.settings.eta)
        rounds = [*[row["losses"] for row in self.history], list(losses)]
        graph = graph_matrix(self.settings.graph, self.sampler.order)
        return mixtures.skill_it_weights(
            mixtures.uniform(len(self.sampler.order)), graph, rounds, self.settings.eta, normalise=True
        )

    def result(self) -> dict[str, float]:
        """The mixture to use elsewhere: the average over updates (DoReMi's result), or that of the first batch."""
        rows = [row["weights"] for row in self.history] or [self.first]
        return dict(zip(self.sampler.order, np.mean(rows, axis=0).tolist(), strict=True))
