"""Which share of the labels teaches a head best: the most ambiguous, hardest or easiest ones by a data map, or any?

A head reads all labels of easy train problems with training dynamics; then heads learn from 1 to 100 % of them, chosen
by the map, and from ambiguous ones of which some are replaced by easy-to-learn ones. All are measured on held-out easy
problems (in distribution) and on hard ones (out of it). Swayamdipta et al. 2020, arXiv 2009.10795.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.data.levels import EASY
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.stats.intervals import DRAWS
from rlhf_e2h.studies.cartography import measures
from rlhf_e2h.studies.probing.curve_report import ALL, GROUPS, RANDOM, SUBSETS, mixed, named, report
from rlhf_e2h.studies.probing.heads import HeadSettings, fit_head, probe, reduced
from rlhf_e2h.studies.probing.state_files import read_states
from rlhf_e2h.studies.probing.tables import auc_rows

VERSION = 2
TRAITS = Traits(order=195, about="heads on shares of the labels, chosen by a data map", runs_model=False, seeded=False)
Row = dict[str, Any]
Index = NDArray[np.intp]


@dataclass
class Config:
    """Settings of the `probe_curve` stage."""

    features: Input  # output of a probe_features stage
    kind: Literal["steps", "outcomes"] = "steps"
    easy_levels: list[int] = field(default_factory=lambda: list(EASY))  # the heads learn from these
    shares: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.17, 0.25, 0.33, 0.5])
    mix_shares: list[float] = field(default_factory=lambda: [0.17])  # of the labels, ambiguous ones, of which ...
    mixes: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.5])  # ... these parts become easy-to-learn
    test_share: float = 0.4  # of the easy problems; all hard ones are tested on
    repeats: int = 3  # the seeds of the study: other random shares, and other maps by another order of training
    components: int = 128
    penalty: float = 0.003  # of the head whose dynamics are read
    head: HeadSettings = field(default_factory=HeadSettings)
    draws: int = DRAWS

    def __post_init__(self) -> None:
        if strange := sorted(set(self.mix_shares) - set(self.shares)):
            raise ValueError(f"mix_shares has {strange}, which are none of shares {self.shares}")


def main(config: Config, run: StageRun) -> None:
    study = _Study(config, run)
    scores, material = [], []
    with run.progress(config.repeats, "heads", "repeats") as bar:
        for repeat in range(config.repeats):
            arms = study.arms(repeat)
            scores.append({name: study.scores(rows) for name, rows in arms.items()})
            material.append({name: study.right[rows] for name, rows in arms.items()})
            bar.advance(1)
    rows: list[Row] = []
    mixes: list[Row] = []
    for group in GROUPS:
        for share in [*config.shares, 1.0]:
            methods = [m for m in scores[0] if m in (ALL, named(RANDOM, share)) or m.endswith(named("", share))]
            found = study.compared(scores, group, methods, named(RANDOM, share))
            rows += [{"share": share, **r} for r in found if share == 1 or r["method"] != ALL]
        for share in config.mix_shares:
            methods = [mixed(mix, share) for mix in [0.0, *config.mixes]]
            found = study.compared(scores, group, [*methods, ALL], methods[0])
            mixes += [{"share": share, "mix": mix, **r} for mix, r in zip([0.0, *config.mixes], found, strict=False)]
    for row in [*rows, *mixes]:
        labels = [one[row["method"]] for one in material]
        row |= {"labels": len(labels[0]), "wrong": round(float(np.mean([1 - right.mean() for right in labels])), 4)}
    console.print(report(run, rows, mixes, config.shares), markup=False)
    run.finish(labels=len(study.train), hard=len(study.hard), easy=len(study.test), repeats=config.repeats)


class _Study:
    """Items, states, and which of them are learnt from or tested on."""

    def __init__(self, config: Config, run: StageRun) -> None:
        self.config = config
        items, states_ND = read_states(run.path(config.features))
        kept = [i for i, item in enumerate(items) if item["kind"] == config.kind and item["level"] is not None]
        self.problems = [items[i]["problem_id"] for i in kept]
        self.right = np.array([items[i]["label"] for i in kept], dtype=bool)
        easy_N = np.array([items[i]["level"] in config.easy_levels for i in kept], dtype=bool)
        names = sorted({name for name, easy in zip(self.problems, easy_N, strict=True) if easy})
        held = set(np.random.default_rng(0).permutation(names)[: round(config.test_share * len(names))].tolist())
        held_N = np.array([name in held for name in self.problems], dtype=bool)
        self.train, self.test = np.flatnonzero(easy_N & ~held_N), np.flatnonzero(easy_N & held_N)
        self.hard = np.flatnonzero(~easy_N)
        for side, chosen in (("train", self.train), ("easy test", self.test), ("hard test", self.hard)):
            if len(set(self.right[chosen].tolist())) < 2:
                raise ConfigError(f"{run.name}: {len(chosen)} {side} {config.kind}, not both right and wrong")
        fit_on = np.zeros(len(kept), dtype=bool)
        fit_on[self.train] = True
        self.x = reduced(states_ND[kept], fit_on, config.components)

    def compared(
        self, scores: Sequence[Mapping[str, NDArray[np.floating]]], group: str, methods: Sequence[str], floor: str
    ) -> list[Row]:
        """Rows of some arms on a group of problems, their differences taken from the arm `floor` and from all."""
        chosen = {"hard": self.hard, "easy": self.test}[group]
        part = [{name: one[name][chosen] for name in methods} for one in scores]
        names = [self.problems[i] for i in chosen]
        found = auc_rows(part, self.right[chosen], names, (floor, ALL), "ratio", self.config.draws)
        return [{"test_on": group, **row} for row in found]

    def scores(self, rows: Index) -> NDArray[np.floating]:
        """Scores of all items by a head that learns from these."""
        labels = self.right[rows].astype(float)
        if labels.min() == labels.max():  # a head that has seen one class tells nothing apart
            return np.zeros(len(self.x))
        return probe(self.x[rows], labels, [self.problems[i] for i in rows]).predict(self.x)

    def arms(self, repeat: int) -> dict[str, Index]:
        """Items that each arm learns from, `ambiguous 10%`, ..., and `all`, by the map of a head that reads all."""
        config, values = self.config, self._map(repeat)
        confidence_M = values["confidence"]
        found: dict[str, Index] = {}
        for share in config.shares:

            def take(metric: str, easy: float = 0.0, ends: Any = "best", share: float = share) -> Index:
                chosen = measures.select(metric, values[metric], confidence_M, share, easy, ends)
                return np.asarray(self.train[np.array(chosen)])

            metrics = (("variability", "best"), ("confidence", "best"), ("confidence", "worst"))
            for subset, (metric, ends) in zip(SUBSETS, metrics, strict=True):
                found[named(subset, share)] = take(metric, ends=ends)
            order = np.random.default_rng([repeat, 2]).permutation(self.train)
            found[named(RANDOM, share)] = order[: measures.share_of(len(order), share)]
            if share in config.mix_shares:
                for mix in config.mixes:
                    found[mixed(mix, share)] = take("variability", mix)
        return {**found, ALL: self.train}

    def _map(self, repeat: int) -> dict[str, NDArray[np.float64]]:
        """The data map of all labels that are learnt from."""
        truth_M = self.right[self.train].astype(float)
        gold: list[NDArray[np.float64]] = []

        def log(_: int, logits_M: NDArray[np.floating]) -> None:
            gold.append(1 / (1 + np.exp(-np.where(truth_M > 0, logits_M, -logits_M).astype(np.float64))))

        fit_head(self.x[self.train], truth_M, self.config.penalty, "xent", self.config.head, repeat, log)
        gold_ME = np.stack(gold, axis=1)
        return measures.metrics(gold_ME, gold_ME > 0.5)
