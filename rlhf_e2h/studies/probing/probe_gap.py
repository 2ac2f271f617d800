"""Supervision gap on frozen states: probes learn from easy, medium, hard or all labels at equal n, tested on hard ones.

The floor, no labels at all, is a score that is the same for all items, so its AUC is one half. With cost and noise
curves from the same states. It reads hard labels: its name must say so. Hase et al. 2024, arXiv 2401.06751.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.stats.intervals import DRAWS
from rlhf_e2h.studies import drawings
from rlhf_e2h.studies.gap import slices
from rlhf_e2h.studies.probing.heads import probe, reduced
from rlhf_e2h.studies.probing.state_files import read_states
from rlhf_e2h.studies.probing.surface import surface
from rlhf_e2h.studies.probing.tables import auc_rows, columns, words

VERSION = 1
TRAITS = Traits(
    order=235, about="supervision gap by probes on frozen states, at equal n", runs_model=False, seeded=False
)
FLOOR, TOP = "none", "hard"
Row = dict[str, Any]
Arm = tuple[str, str, int, float]  # reads (states, surface), train_on, n, noise


@dataclass
class Config:
    """Settings of the `probe_gap` stage."""

    features: Input  # output of a probe_features stage
    kind: Literal["steps", "outcomes"] = "steps"
    easy_max: int = 2  # levels up to this one are easy
    hard_min: int = 4  # and from this one hard
    n: int = 400  # labels that every arm learns from
    curve: list[int] = field(default_factory=lambda: [50, 100, 200])  # further n, for the cost curve
    noise: list[float] = field(default_factory=lambda: [0.1, 0.3])  # labels redrawn with p, hard ones with 2p
    hard_cost: float = 2.0  # a hard label costs this many easy ones
    test_share: float = 0.4  # of the problems, the same in every repeat
    repeats: int = 5
    components: int = 128  # principal components of the states; 0: all
    draws: int = DRAWS


def main(config: Config, run: StageRun) -> None:
    study = _Study(config, run)
    arms = study.arms()
    scores: list[dict[str, Any]] = []
    with run.progress(config.repeats * len(arms), "probes", "arms") as bar:
        for repeat in range(config.repeats):
            found = {FLOOR: np.zeros(len(study.items))}
            for arm in arms:
                found[_name(arm)] = study.scores(arm, repeat)
                bar.advance(1)
            scores.append(found)
    rows = []
    for group, chosen in study.groups().items():
        problems = [study.problems[i] for i in chosen]
        part = [{name: values[chosen] for name, values in one.items()} for one in scores]
        made = auc_rows(part, study.right[chosen], problems, (FLOOR, TOP), "sgr", config.draws)
        rows += [{"test_on": group, **row} for row in made]
    _report(config, run, study, rows)


def _name(arm: Arm) -> str:
    """What a table calls an arm; the plain arm on states is its group."""
    reads, train_on, n, noise = arm
    parts = [train_on, *([f"n {n}"] if n else []), *([f"noise {noise:g}"] if noise else [])]
    return ", ".join([*parts, *([reads] if reads != "states" else [])])


class _Study:
    """Items, their states and groups."""

    def __init__(self, config: Config, run: StageRun) -> None:
        self.config = config
        items, states_ND = read_states(run.path(config.features))
        kept = [i for i, item in enumerate(items) if item["kind"] == config.kind and item["level"] is not None]
        if not kept:
            raise ConfigError(f"{run.name}: {config.features} has no {config.kind} with a level; set `kind`")
        self.items = [items[i] for i in kept]
        self.right = np.array([item["label"] for item in self.items], dtype=bool)
        self.problems = [item["problem_id"] for item in self.items]
        self.levels = [int(item["level"]) for item in self.items]
        self.group = slices.groups_of(self.levels, config.easy_max, config.hard_min)
        self.test = self._test()
        self.x = {"states": reduced(states_ND[kept], ~self.test, config.components), "surface": surface(self.items)}
        for arm in self.arms():  # found out before anything is trained
            self.chosen(arm, 0)

    def _test(self) -> Any:
        """A share of the problems of each level."""
        rng, held = np.random.default_rng(0), set()
        for level in sorted(set(self.levels)):
            pairs = zip(self.problems, self.levels, strict=True)
            names = sorted({problem for problem, own in pairs if own == level})
            held |= set(rng.permutation(names)[: round(self.config.test_share * len(names))].tolist())
        return np.array([problem in held for problem in self.problems], dtype=bool)

    def arms(self) -> list[Arm]:
        config = self.config
        found: list[Arm] = [("states", arm, 0, 0.0) for arm in ("easy", "medium", "hard", "all")]
        found += [("surface", arm, 0, 0.0) for arm in ("easy", "hard")]
        found += [("states", arm, n, 0.0) for n in config.curve for arm in ("easy", "hard")]
        return found + [("states", arm, 0, p) for p in config.noise for arm in ("easy", "hard")]

    def chosen(self, arm: Arm, repeat: int) -> Any:
        """Items that an arm learns from; a smaller n has the first of a larger one."""
        train = np.flatnonzero(~self.test)
        members = slices.members([self.group[i] for i in train], [self.levels[i] for i in train], arm[1])
        return train[slices.draw(members, arm[2] or self.config.n, arm[1], repeat)]

    def scores(self, arm: Arm, repeat: int) -> Any:
        reads, train_on, _, noise = arm
        chosen = self.chosen(arm, repeat)
        truth = [float(self.right[i]) for i in chosen]
        labels_N = np.array(slices.redrawn(truth, (0.0, 1.0), slices.noise_of(train_on, noise), repeat), dtype=float)
        return probe(self.x[reads][chosen], labels_N, [self.problems[i] for i in chosen]).predict(self.x[reads])

    def groups(self) -> dict[str, Any]:
        """Test items of each group."""
        group = np.array(self.group)
        return {name: np.flatnonzero(self.test & (group == name)) for name in ("hard", "medium", "easy")}


def _report(config: Config, run: StageRun, study: _Study, rows: list[Row]) -> None:
    hard = {row["method"]: row for row in rows if row["test_on"] == "hard"}
    shown = ", ".join(f"{name} {words(hard[name])}" for name in ("easy", "medium", "hard", "all"))
    control = ", ".join(f"{name} {words(hard[f'{name}, surface'])}" for name in ("easy", "hard"))
    counts = {group: study.group.count(group) for group in slices.GROUPS}
    paragraph = (
        f"AUC on {hard['hard']['items']} labels of {hard['hard']['problems']} hard problems, {config.n} labels to "
        f"learn from, {config.repeats} repeats: {shown}; SGR {words(hard['easy'], 'sgr')}. Without a model: {control}."
    )
    plain = [{**row, "value": row["auc"]} for row in rows if row["method"] in ("easy", "medium", "hard", "all")]
    add_section(
        run.out, "probe_gap", "Supervision gap on frozen states", paragraph, columns("sgr", "test_on"), rows,
        lambda: drawings.dots(plain, "method", ["hard", "medium", "easy"], "test_on", "AUC", {}),
        f"Labels in all: {counts}. 95 % intervals over problems and repeats.", True,
    )  # fmt: skip
    for name, axis, found in (("cost", "label cost", _cost(config, hard)), ("noise", "p", _noise(config, hard))):
        table = [
            {"train_on": arm, axis: x, "auc": y, "low": a, "high": b} for arm, p in found.items() for x, y, a, b in p
        ]
        add_section(
            run.out, f"probe_gap_{name}", f"AUC on hard labels over {axis}", f"A hard label costs {config.hard_cost:g}."
            if name == "cost" else "Easy labels redrawn with p, hard ones with 2p.",
            ("train_on", axis, "auc", "low", "high"), table,
            partial(drawings.curves, found, axis, "AUC on hard labels", log=name == "cost"),
        )  # fmt: skip
    console.print(paragraph, markup=False)
    run.finish(n=config.n, repeats=config.repeats, **{f"test_{k}": len(v) for k, v in study.groups().items()})


def _point(x: float, row: Row) -> tuple[float, float, float, float]:
    return x, row["auc"], row["low"], row["high"]


def _cost(config: Config, hard: dict[str, Row]) -> drawings.Curves:
    def points(arm: str) -> Sequence[Any]:
        sizes = [(n, f"{arm}, n {n}") for n in config.curve] + [(config.n, arm)]
        return sorted(_point(slices.cost_of(arm, n, config.hard_cost), hard[name]) for n, name in sizes)

    return {arm: points(arm) for arm in ("easy", "hard")}


def _noise(config: Config, hard: dict[str, Row]) -> drawings.Curves:
    return {
        arm: [_point(0.0, hard[arm]), *(_point(p, hard[f"{arm}, noise {p:g}"]) for p in sorted(config.noise))]
        for arm in ("easy", "hard")
    }
