"""Weak-to-strong on frozen states: a probe on a weak model labels items softly, heads on a strong one learn from that.

For each task the train problems are halved: the supervisor learns from the truth of `budget` items of one half, the
student from the supervisor's labels of the other, the ceiling from the truth of those. All are measured on the same
held-out problems, `repeats` times with other halves. Beside them: the strong model on the supervisor's own labels
(`direct`), and a control that reads only lengths, places and signs (`surface`).

Burns et al. 2023 (arXiv 2312.09390); EleutherAI, "Experiments in Weak-to-Strong Generalization".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, NamedInputs
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.stats.intervals import DRAWS
from rlhf_e2h.stats.paired_tests import paired_tests
from rlhf_e2h.studies import drawings
from rlhf_e2h.studies.probing.heads import HeadSettings, chosen_penalty, fit_head, probe, reduced
from rlhf_e2h.studies.probing.state_files import in_both, read_states
from rlhf_e2h.studies.probing.surface import surface
from rlhf_e2h.studies.probing.tables import auc_rows, columns, words
from rlhf_e2h.studies.weak_to_strong.losses import LOSSES
from rlhf_e2h.studies.weak_to_strong.probe_labels import ProbeSettings, probe_predictions, probed

VERSION = 1
TRAITS = Traits(
    order=245, about="weak-to-strong by heads on frozen states of two models", runs_model=False, seeded=False
)
WEAK, CEILING, REFERENCE = "weak", "ceiling", "xent"
TESTS = ("method", "tasks", "better_on", "difference", "t_p", "wilcoxon_p", "null_because")
Row = dict[str, Any]
Floats = NDArray[np.floating]


@dataclass
class Config:
    """Settings of the `probe_transfer` stage."""

    weak: NamedInputs = field(default_factory=dict)  # task -> probe_features stage of the weak model
    strong: NamedInputs = field(default_factory=dict)  # the same items read by the strong model
    kinds: dict[str, Literal["steps", "outcomes"]] = field(default_factory=dict)  # task -> which labels of the stage
    budget: int = 400  # items whose truth the supervisor learns from
    student_items: int = 1000  # at most, that students and ceiling learn from
    test_share: float = 0.4  # of the problems, the same in every repeat
    repeats: int = 5
    components: int = 128  # principal components of the states; 0: all
    k: int = 20  # neighbours of kNN and TopoFilter; at most a tenth of the student's items
    head: HeadSettings = field(default_factory=HeadSettings)
    draws: int = DRAWS

    def __post_init__(self) -> None:
        if not self.weak or set(self.weak) != set(self.strong) or set(self.kinds) - set(self.weak):
            raise ValueError(f"weak {sorted(self.weak)} and strong {sorted(self.strong)}: give both for the same tasks")
        if self.budget < 10 or self.repeats < 1 or not 0 < self.test_share < 1:
            raise ValueError("budget is at least 10, repeats at least 1, test_share between 0 and 1")


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
            test_N = study.test
            problems = [study.problems[i] for i in np.flatnonzero(test_N)]
            found = auc_rows(scores, study.right[test_N], problems, (WEAK, CEILING), "pgr", config.draws)
            table += [{"task": task, **row} for row in found]
    tested = tests(table)
    paragraph = _paragraph(table, tested)
    shown = [{**row, "value": row["auc"]} for row in table]
    add_section(
        run.out, "probe_transfer", "Weak-to-strong on frozen states: AUC on held-out problems", paragraph,
        columns("pgr", "task"), table,
        lambda: drawings.dots(shown, "method", list(config.weak), "task", "AUC on held-out problems", {}),
        "95 % intervals over problems and repeats.", True,
    )  # fmt: skip
    add_section(
        run.out, "probe_transfer_tests", f"Against {REFERENCE}, over tasks", "A pair is a task, the mean of its "
        "repeats; two-sided, not corrected for their number.", TESTS, tested, open=True,
    )  # fmt: skip
    console.print(paragraph, markup=False)
    run.finish(tasks=len(config.weak), repeats=config.repeats, **nonzero(read_by_one_model=alone))


def tests(table: Sequence[Row]) -> list[Row]:
    """Each method's AUC against the reference, paired over tasks."""
    by = {(row["task"], row["method"]): row["auc"] for row in table}
    tasks = list(dict.fromkeys(row["task"] for row in table))
    found = []
    for method in dict.fromkeys(row["method"] for row in table):
        if method == REFERENCE:
            continue
        own, base = [by[t, method] for t in tasks], [by[t, REFERENCE] for t in tasks]
        result = paired_tests(own, base)
        better = sum(a > b for a, b in zip(own, base, strict=True))
        found.append(
            {
                "method": method, "tasks": len(tasks), "better_on": better, "difference": result.difference,
                "t_p": result.t_p, "wilcoxon_p": result.wilcoxon_p, "null_because": result.reason,
            }
        )  # fmt: skip
    return found


def _paragraph(table: Sequence[Row], tested: Sequence[Row]) -> str:
    parts = []
    for task in dict.fromkeys(row["task"] for row in table):
        by = {row["method"]: row for row in table if row["task"] == task}
        shown = ", ".join(f"{m} {words(by[m])}" for m in ("surface", WEAK, REFERENCE, "direct", CEILING))
        parts.append(f"{task} ({by[WEAK]['items']} items of {by[WEAK]['problems']} problems): {shown}; "
                     f"PGR of {REFERENCE} {words(by[REFERENCE], 'pgr')}.")  # fmt: skip
    clear = [r for r in tested if r["t_p"] is not None and r["t_p"] < 0.05 and r["method"] not in (WEAK, CEILING)]
    named = ", ".join(f"{r['method']} {r['difference']:+.3f} (p = {r['t_p']:.3f})" for r in clear)
    parts.append(f"Against {REFERENCE}, paired over tasks, these differ at 5 %: {named or 'none'}.")
    return " ".join(parts)


class _Task:
    """Items of one task with the states of both models."""

    def __init__(self, config: Config, run: StageRun, task: str) -> None:
        self.config = config
        sides = [read_states(run.path(paths[task])) for paths in (config.weak, config.strong)]
        items, (weak_ND, strong_ND), self.alone = in_both(*sides)
        if not items:
            raise ConfigError(f"{run.name}: {task}: the weak and the strong model read no item both; set both alike")
        kept = [i for i, item in enumerate(items) if item["kind"] == config.kinds.get(task, item["kind"])]
        self.items = [items[i] for i in kept]
        self.right = np.array([item["label"] for item in self.items], dtype=bool)
        self.problems = [item["problem_id"] for item in self.items]
        names = sorted(set(self.problems))
        held = set(np.random.default_rng(0).permutation(names)[: round(config.test_share * len(names))].tolist())
        self.train_names = [name for name in names if name not in held]
        self.test = np.array([problem in held for problem in self.problems], dtype=bool)
        for side, chosen in (("test", self.test), ("train", ~self.test)):
            if not chosen.any() or len(set(self.right[chosen].tolist())) < 2:
                raise ConfigError(
                    f"{run.name}: {task}: {int(chosen.sum())} {side} items, not both right and wrong ones"
                )
        self.weak = reduced(weak_ND[kept], ~self.test, config.components)
        self.strong = reduced(strong_ND[kept], ~self.test, config.components)
        self.surface = surface(self.items)

    def halves(self, repeat: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Items of the supervisor, at most `budget`, and of the student; no problem has items in both."""
        rng = np.random.default_rng([repeat, 1])
        half = set(rng.permutation(self.train_names)[: len(self.train_names) // 2].tolist())
        own_N = np.array([problem in half for problem in self.problems], dtype=bool)
        first = rng.permutation(np.flatnonzero(own_N & ~self.test))[: self.config.budget]
        other = rng.permutation(np.flatnonzero(~own_N & ~self.test))[: self.config.student_items]
        return np.sort(first), np.sort(other)

    def scores(self, repeat: int) -> dict[str, Floats]:
        """Scores of the test items by every method."""
        first, other = self.halves(repeat)
        truth_N = self.right.astype(float)
        supervisor = probe(self.weak[first], truth_N[first], self._names(first))
        weak_M = supervisor.predict(self.weak[other])
        test = np.flatnonzero(self.test)
        x_MC, names = self.strong[other], self._names(other)
        found = {WEAK: supervisor.predict(self.weak[test])}
        found["surface"] = probe(self.surface[other], truth_N[other], names).predict(self.surface[test])
        found["direct"] = probe(self.strong[first], truth_N[first], self._names(first)).predict(self.strong[test])
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

    def _names(self, chosen: NDArray[np.intp]) -> list[str]:
        return [self.problems[i] for i in chosen]


def _label_probes(k: int) -> Mapping[str, ProbeSettings]:
    return {
        "kNN filter": ProbeSettings("knn", "filter", k), "logistic filter": ProbeSettings("logistic", "filter"),
        "logistic relabel": ProbeSettings("logistic", "relabel"), "TopoFilter": ProbeSettings("topo", "filter", k),
    }  # fmt: skip
