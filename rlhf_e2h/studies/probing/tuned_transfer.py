"""Weak-to-strong by training models: a tuned weak model labels items softly, strong ones learn from that.

What `probe_transfer` does with heads on frozen states, on the same tasks (`transfer_tasks`), by models that are trained
in full or by LoRA. A model's scores are kept as soon as it is done, so a killed run trains no model twice; its weights
are not kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reward_models.encode import encode
from reward_models.model import load_tokenizer
from rlhf_e2h.parallel.processes import release_memory
from rlhf_e2h.runner.config import Input, NamedInputs
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.probing.heads import probe
from rlhf_e2h.studies.probing.state_files import read_items
from rlhf_e2h.studies.probing.transfer_tasks import (
    CEILING,
    REFERENCE,
    WEAK,
    Floats,
    Row,
    SplitSettings,
    TaskItems,
    report,
)
from rlhf_e2h.studies.weak_to_strong.students import FitSettings, LossSettings, fit_soft, soft_contract

VERSION = 1
TRAITS = Traits(
    order=246, about="weak-to-strong by training two models on labelled steps and outcomes", trains=True, seeded=False
)


@dataclass
class Config(SplitSettings):
    """Settings of the `tuned_transfer` stage."""

    tasks: NamedInputs = field(default_factory=dict)  # task -> probe_features stage, whose items alone are read
    weak: Input = ""  # the supervisor's model before training: folder or hub id
    strong: Input = ""  # that of students and ceiling
    students: dict[str, LossSettings] = field(default_factory=lambda: {"xent": LossSettings()})
    weak_fit: FitSettings = field(default_factory=FitSettings)
    fit: FitSettings = field(default_factory=FitSettings)  # of all others

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.tasks and self.weak and self.strong):
            raise ValueError("tasks, weak and strong must all be given")
        self.refuse_other_kinds(list(self.tasks))
        if REFERENCE not in self.students or {WEAK, CEILING, "direct", "surface"} & set(self.students):
            raise ValueError(
                f"students {sorted(self.students)}: one is {REFERENCE}, to which the others are compared, and none is "
                f"{WEAK}, direct, surface or {CEILING}"
            )
        for name, fit in (("weak_fit", self.weak_fit), ("fit", self.fit)):
            if fit.eval_steps:
                raise ValueError(f"{name}.eval_steps is {fit.eval_steps}; the last weights are kept here, leave it out")


def main(config: Config, run: StageRun) -> None:
    table: list[Row] = []
    too_long = 0
    for task, reference in config.tasks.items():
        items = read_items(run.path(reference))
        short = _readable(config, run, items)
        too_long += len(items) - len(short)
        study = _Task(config, run, task, short)
        table += study.table([study.scores(repeat) for repeat in range(config.repeats)], task)
    report(run, "tuned_transfer", "Weak-to-strong with trained models", table)
    run.finish(tasks=len(config.tasks), repeats=config.repeats, **nonzero(too_long=too_long))


def _readable(config: Config, run: StageRun, items: Sequence[Row]) -> list[Row]:
    """The items that fit `max_length` of both models: all methods are measured on the same ones."""
    fits = np.ones(len(items), dtype=bool)
    for base, settings in ((config.weak, config.weak_fit), (config.strong, config.fit)):
        tokenizer = load_tokenizer(run.path(base))
        problems, steps = ([item[key] for item in items] for key in ("problem", "steps"))
        rows = encode(tokenizer, soft_contract("orm", None), problems, steps)
        fits &= np.array([len(row.ids) for row in rows]) <= settings.max_length
    return [item for item, fit in zip(items, fits, strict=True) if fit]


class _Task(TaskItems):
    def __init__(self, config: Config, run: StageRun, task: str, items: Sequence[Row]) -> None:
        super().__init__(config, run.name, task, items)
        self.config, self.run, self.task = config, run, task
        self.texts = [(item["problem"], item["steps"]) for item in self.items]
        self.kind = "prm" if all(item["kind"] == "steps" for item in self.items) else "orm"

    def scores(self, repeat: int) -> dict[str, Floats]:
        """Scores of the test items by every method."""
        first, other = self.halves(repeat)
        test = np.flatnonzero(self.test)
        truth_N = self.right.astype(float)
        config = self.config
        control = probe(self.surface[other], truth_N[other], self.names(other))
        found: dict[str, Floats] = {"surface": control.predict(self.surface[test])}
        asked = np.concatenate([test, other])
        weak_A = self._learn(WEAK, repeat, config.weak, config.weak_fit, first, truth_N[first], asked)
        found[WEAK], weak_M = weak_A[: len(test)], weak_A[len(test) :]
        strong, fit = config.strong, config.fit
        found["direct"] = self._learn("direct", repeat, strong, fit, first, truth_N[first], test)
        for name, loss in config.students.items():
            found[name] = self._learn(name, repeat, strong, fit, other, weak_M, test, loss)
        found[CEILING] = self._learn(CEILING, repeat, strong, fit, other, truth_N[other], test)
        return found

    def _learn(
        self, method: str, repeat: int, base: str, settings: FitSettings, learn: NDArray[np.intp], labels: Floats,
        judge: NDArray[np.intp], loss: LossSettings | None = None,
    ) -> Floats:  # fmt: skip
        """P(right) of the items `judge` by a model that learnt the items `learn` with these labels."""
        name = f"{self.task} {method} {repeat + 1}/{self.config.repeats}"
        file = self.run.scratch / f"{self.task}_{method}_{repeat}.json"
        if file.is_file():
            return np.array(json.loads(file.read_text(encoding="utf-8")))
        folder = self.run.scratch / "model"
        with self.run.progress(1, name, "steps") as bar:
            scorer = fit_soft(
                self.run.path(base), [self.texts[i] for i in learn], [np.array([value]) for value in labels], folder,
                settings, repeat, loss, kind=self.kind, on_step=bar.update,
            )  # fmt: skip
        texts = [self.texts[i] for i in judge]
        with self.run.progress(len(texts), f"{name}: reading", "items") as bar:
            found = np.array([result.steps[-1] for result in scorer.score_stream(texts, on_scored=bar.advance)])
        shutil.rmtree(folder)
        del scorer
        release_memory()
        write_json(file, found.tolist())
        return found
