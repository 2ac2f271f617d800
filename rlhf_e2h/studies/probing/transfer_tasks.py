"""Tasks of a weak-to-strong study on labelled items: who learns from what, and the tables of what came out.

For each task the train problems are halved: the supervisor learns from the truth of `budget` items of one half, the
student from the supervisor's labels of the other, the ceiling from the truth of those. All are measured on the same
held-out problems, `repeats` times with other halves.

Burns et al. 2023 (arXiv 2312.09390); EleutherAI, "Experiments in Weak-to-Strong Generalization".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.stats.intervals import DRAWS
from rlhf_e2h.stats.paired_tests import paired_tests
from rlhf_e2h.studies import drawings
from rlhf_e2h.studies.probing.surface import surface
from rlhf_e2h.studies.probing.tables import auc_rows, columns, words

WEAK, CEILING, REFERENCE = "weak", "ceiling", "xent"
TESTS = ("method", "tasks", "better_on", "difference", "t_p", "wilcoxon_p", "null_because")
Row = dict[str, Any]
Floats = NDArray[np.floating]


@dataclass
class SplitSettings:
    """Which items of a task are learnt from and which are tested on."""

    kinds: dict[str, Literal["steps", "outcomes"]] = field(default_factory=dict)  # task -> which labels of the stage
    budget: int = 400  # items whose truth the supervisor learns from
    student_items: int = 1000  # at most, that students and ceiling learn from
    test_share: float = 0.4  # of the problems, the same in every repeat
    repeats: int = 5
    draws: int = DRAWS

    def __post_init__(self) -> None:
        if self.budget < 10 or self.repeats < 1 or not 0 < self.test_share < 1:
            raise ValueError("budget is at least 10, repeats at least 1, test_share between 0 and 1")

    def refuse_other_kinds(self, tasks: Sequence[str]) -> None:
        """
        Raises:
            ValueError: `kinds` names a task that there is not.
        """
        if unknown := sorted(set(self.kinds) - set(tasks)):
            raise ValueError(
                f"kinds names {', '.join(unknown)}, which is no task; there are {', '.join(sorted(tasks))}"
            )


class TaskItems:
    """The items of one task, of the kind that is asked for: N of them, and which of their problems are held out."""

    def __init__(self, settings: SplitSettings, stage: str, task: str, items: Sequence[Row]) -> None:
        self.settings = settings
        self.kept = [i for i, item in enumerate(items) if item["kind"] == settings.kinds.get(task, item["kind"])]
        self.items = [items[i] for i in self.kept]
        self.right = np.array([item["label"] for item in self.items], dtype=bool)
        self.problems = [item["problem_id"] for item in self.items]
        names = sorted(set(self.problems))
        held = set(np.random.default_rng(0).permutation(names)[: round(settings.test_share * len(names))].tolist())
        self.train_names = [name for name in names if name not in held]
        self.test = np.array([problem in held for problem in self.problems], dtype=bool)
        for side, chosen in (("test", self.test), ("train", ~self.test)):
            if not chosen.any() or len(set(self.right[chosen].tolist())) < 2:
                raise ConfigError(f"{stage}: {task}: {int(chosen.sum())} {side} items, not both right and wrong ones")
        self.surface = surface(self.items)

    def halves(self, repeat: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Items of the supervisor, at most `budget`, and of the student; no problem has items in both."""
        rng = np.random.default_rng([repeat, 1])
        half = set(rng.permutation(self.train_names)[: len(self.train_names) // 2].tolist())
        own_N = np.array([problem in half for problem in self.problems], dtype=bool)
        first = rng.permutation(np.flatnonzero(own_N & ~self.test))[: self.settings.budget]
        other = rng.permutation(np.flatnonzero(~own_N & ~self.test))[: self.settings.student_items]
        return np.sort(first), np.sort(other)

    def names(self, chosen: NDArray[np.intp]) -> list[str]:
        """The problem of each chosen item."""
        return [self.problems[i] for i in chosen]

    def table(self, scores_S: Sequence[dict[str, Floats]], task: str) -> list[Row]:
        """AUC of each method on the test items, and its PGR."""
        names = self.names(np.flatnonzero(self.test))
        found = auc_rows(scores_S, self.right[self.test], names, (WEAK, CEILING), "pgr", self.settings.draws)
        return [{"task": task, **row} for row in found]


def report(run: StageRun, name: str, title: str, table: Sequence[Row]) -> None:
    """Sections of the table of all tasks and of the tests over them."""
    tasks = list(dict.fromkeys(row["task"] for row in table))
    tested = tests(table)
    paragraph = _paragraph(table, tested)
    shown = [{**row, "value": row["auc"]} for row in table]
    add_section(
        run.out, name, f"{title}: AUC on held-out problems", paragraph, columns("pgr", "task"), table,
        lambda: drawings.dots(shown, "method", tasks, "task", "AUC on held-out problems", {}),
        "95 % intervals over problems and repeats.", True,
    )  # fmt: skip
    add_section(
        run.out, f"{name}_tests", f"Against {REFERENCE}, over tasks", "A pair is a task, the mean of its "
        "repeats; two-sided, not corrected for their number.", TESTS, tested, open=True,
    )  # fmt: skip
    console.print(paragraph, markup=False)


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
