"""What a fine-tuning run does beside training: mixtures of skills, training dynamics, snapshots for learning curves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from reward_models.arguments import planned_steps
from rlhf_e2h.parallel.processes import whole_model
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.text_formats import save_format
from rlhf_e2h.training.items import Item, SolutionDynamics, mean_logprobs, publish
from rlhf_e2h.training.mixing import Mixing, RowOrder, build_sampler, skill_of
from rlhf_e2h.training.models import open_policy

SNAPSHOTS = "snapshots"
FORM_FILE = "form.json"  # in the snapshots folder: how answers are written
MIXTURE_FILE = "mixture.json"
Row = dict[str, str]


@dataclass
class TrainingPlan:
    """The rows to train on, their order (the Trainer's own if None), and callbacks."""

    rows: list[Row]
    order: RowOrder | None = None
    callbacks: list[TrainerCallback] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    mixing: Mixing | None = None

    def finish(self, run: StageRun) -> None:
        """Publish dynamics and the mixture."""
        if not run.is_main:
            return
        if self.items:
            publish(run, self.items)
        if (run.scratch / SNAPSHOTS).is_dir():
            shutil.move(run.scratch / SNAPSHOTS, run.out / SNAPSHOTS)
        if self.mixing:
            write_json(run.out / MIXTURE_FILE, self.mixing.result())


def plan_training(
    config: Any, run: StageRun, tokenizer: Any, problems: Sequence[Mapping[str, Any]], rows: Sequence[Row],
    text_format: TextFormat = SECTIONS,
) -> TrainingPlan:  # fmt: skip
    """The plan of an `sft` stage; `problems` are those of the rows, and `text_format` is what they are written in.

    Raises:
        ConfigError: settings that do not fit together.
    """
    plan = TrainingPlan(list(rows))
    if config.snapshots:
        if config.training.lora.r:
            raise ConfigError(f"{run.name}: snapshots are whole models; they need training.lora.r 0")
        plan.callbacks.append(Snapshots(run, tokenizer, config.snapshots, config.form, text_format))
    if config.mixture:
        problems = _mix(config, run, tokenizer, problems, plan)
    if config.dynamics:
        guids = [str(problem["problem_id"]) for problem in problems]
        plan.callbacks.append(SolutionDynamics(run, tokenizer, plan.rows, guids))
        plan.items = [
            Item(guid, guid, guid, problem["level"], None, 1, row["completion"])
            for guid, problem, row in zip(guids, problems, plan.rows, strict=True)
        ]
    return plan


def _mix(
    config: Any, run: StageRun, tokenizer: Any, problems: Sequence[Mapping[str, Any]], plan: TrainingPlan
) -> list[Mapping[str, Any]]:
    """Put the sampler into the plan; returns the problems of the rows that are left to train on."""
    settings, training = config.mixture, config.training
    if config.skill_graph:
        settings = replace(settings, graph=_read(run.path(config.skill_graph), "graph.json"))
    if config.shares:
        settings = replace(settings, weights="given", given=_read(run.path(config.shares), MIXTURE_FILE))
    held = _held_out(problems, settings.skill, settings.items) if settings.adaptive else {}
    inside = {index for group in held.values() for index in group}
    groups = {skill: [plan.rows[index] for index in group] for skill, group in held.items()}
    kept = [problem for index, problem in enumerate(problems) if index not in inside]
    plan.rows = [row for index, row in enumerate(plan.rows) if index not in inside]
    sampler = build_sampler(settings, kept, training.batch_size, planned_steps(training, len(plan.rows)), run.seed)
    plan.order = RowOrder(sampler, len(plan.rows))

    def losses(model: Any) -> list[float]:
        return [-float(np.mean(mean_logprobs(model, tokenizer, groups[skill]))) for skill in sampler.order]

    reference = None
    if settings.weights == "doremi":
        if not config.reference:
            raise ConfigError(f"{run.name}: doremi compares with a reference model; set `reference`")
        reference = losses(open_policy(run.path(config.reference)).model)
    plan.mixing = Mixing(settings, sampler, run, losses if settings.adaptive else None, reference)
    plan.callbacks.append(plan.mixing)
    return kept


def _read(path: Path, name: str) -> Any:
    return json.loads((path / name if path.is_dir() else path).read_text(encoding="utf-8"))


def _held_out(problems: Sequence[Mapping[str, Any]], skill: Any, items: int) -> dict[str, list[int]]:
    """The last rows of each skill, kept to measure its loss.

    Raises:
        ConfigError: a skill that would have nothing left to train on.
    """
    members: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        members.setdefault(skill_of(problem, skill), []).append(index)
    short = [name for name, group in members.items() if len(group) <= items]
    if short:
        raise ConfigError(
            f"skill {short[0]!r} has {len(members[short[0]])} solutions and {items} are kept to measure its loss; "
            "lower mixture.items or prepare more problems"
        )
    return {name: group[-items:] for name, group in members.items()}


class Snapshots(TrainerCallback):
    """Keeps the weights before the first step and after every `every` steps, as model folders.

    `trainer` has to be set before training: where weights are sharded, it gathers them.
    """

    trainer: Any = None

    def __init__(self, run: StageRun, tokenizer: Any, every: int, form: str, text_format: TextFormat) -> None:
        self.tokenizer, self.every, self.form, self.text_format = tokenizer, every, form, text_format
        self.folder = run.scratch / SNAPSHOTS  # so that a killed run keeps those it has

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FORM_FILE, {"form": self.form})
        if not state.global_step:
            self._keep(0, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._keep(state.global_step, state)

    def _keep(self, step: int, state: Any) -> None:
        model = whole_model(self.trainer)  # on every process
        if state.is_world_process_zero:
            folder = self.folder / f"step_{step:06d}"
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            save_format(self.text_format, folder)
