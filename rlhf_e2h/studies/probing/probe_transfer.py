"""Weak-to-strong on frozen states: a probe on a weak model labels items softly, heads on a strong one learn from that.

The tasks and who learns from what are those of `transfer_tasks`. Beside supervisor, students and ceiling: the strong
model on the supervisor's own labels (`direct`), and a control that reads only lengths, places and signs (`surface`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_e2h.runner.config import ConfigError, NamedInputs
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.probing.heads import HeadSettings, chosen_penalty, fit_head, probe, reduced
from rlhf_e2h.studies.probing.state_files import in_both, read_states
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
from rlhf_e2h.studies.weak_to_strong.losses import LOSSES
from rlhf_e2h.studies.weak_to_strong.probe_labels import ProbeSettings, probe_predictions, probed

VERSION = 1
TRAITS = Traits(
    order=245, about="weak-to-strong by heads on frozen states of two models", runs_model=False, seeded=False
)


@dataclass
class Config(SplitSettings):
    """Settings of the `probe_transfer` stage."""

    weak: NamedInputs = field(default_factory=dict)  # task -> probe_features stage of the weak model
    strong: NamedInputs = field(default_factory=dict)  # the same items read by the strong model
    components: int = 128  # principal components of the states; 0: all
    k: int = 20  # neighbours of kNN and TopoFilter; at most a tenth of the student's items
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weak or set(self.weak) != set(self.strong):
            raise ValueError(f"weak {sorted(self.weak)} and strong {sorted(self.strong)}: give both for the same tasks")
        self.refuse_other_kinds(list(self.weak))


def main(config: Config, run: StageRun) -> None:
    table: list[Row] = []
    alone = 0
    with run.progress(len(config.weak) * config.repeats, "heads", "repeats") as bar:
        for task in config.weak:
            study = _Task(config, run, task)
            alone += study.alone
            scores = []
            for repeat in range(config.repeats):
                scores.append(study.scores(repeat))
                bar.advance(1)
            table += study.table(scores, task)
    report(run, "probe_transfer", "Weak-to-strong on frozen states", table)
    run.finish(tasks=len(config.weak), repeats=config.repeats, **nonzero(read_by_one_model=alone))


class _Task(TaskItems):
    """Items of one task with the states of both models."""

    def __init__(self, config: Config, run: StageRun, task: str) -> None:
        self.config = config
        sides = [read_states(run.path(paths[task])) for paths in (config.weak, config.strong)]
        items, (weak_ND, strong_ND), self.alone = in_both(*sides)
        if not items:
            raise ConfigError(f"{run.name}: {task}: the weak and the strong model read no item both; set both alike")
        super().__init__(config, run.name, task, items)
        self.weak = reduced(weak_ND[self.kept], ~self.test, config.components)
        self.strong = reduced(strong_ND[self.kept], ~self.test, config.components)

    def scores(self, repeat: int) -> dict[str, Floats]:
        """Scores of the test items by every method."""
        first, other = self.halves(repeat)
        truth_N = self.right.astype(float)
        supervisor = probe(self.weak[first], truth_N[first], self.names(first))
        weak_M = supervisor.predict(self.weak[other])
        test = np.flatnonzero(self.test)
        x_MC, names = self.strong[other], self.names(other)
        found = {WEAK: supervisor.predict(self.weak[test])}
        found["surface"] = probe(self.surface[other], truth_N[other], names).predict(self.surface[test])
        found["direct"] = probe(self.strong[first], truth_N[first], self.names(first)).predict(self.strong[test])
        penalty = chosen_penalty(x_MC, weak_M, names)

        def learn(labels_M: Floats, kept_M: Any = slice(None), loss: str = REFERENCE, l2: float = penalty) -> Any:
            return fit_head(x_MC[kept_M], labels_M[kept_M], l2, loss, self.config.head, repeat)

        students = {loss: learn(weak_M, loss=loss) for loss in LOSSES}
        students["logistic probe"] = probe(x_MC, weak_M, names)
        k = max(1, min(self.config.k, len(other) // 10))
        for name, settings in _label_probes(k).items():
            result = probed(settings, x_MC, weak_M)
            students[name] = learn(result.labels, result.kept)
        students["strong to strong"] = learn(students[REFERENCE].predict(x_MC))
        found |= {name: student.predict(self.strong[test]) for name, student in students.items()}
        knn = ProbeSettings("knn", "predict", k)
        found["kNN probe"] = probe_predictions(knn, x_MC, weak_M, self.strong[test])
        best = learn(truth_N[other], l2=chosen_penalty(x_MC, truth_N[other], names))
        return {**found, CEILING: best.predict(self.strong[test])}


def _label_probes(k: int) -> Mapping[str, ProbeSettings]:
    return {
        "kNN filter": ProbeSettings("knn", "filter", k), "logistic filter": ProbeSettings("logistic", "filter"),
        "logistic relabel": ProbeSettings("logistic", "relabel"), "TopoFilter": ProbeSettings("topo", "filter", k),
    }  # fmt: skip
