"""Which share of the labels teaches a head best: the most ambiguous, hardest or easiest ones by a data map, or any?

A head reads all labels of easy train problems with training dynamics; then heads learn from 1 to 100 % of them, chosen
by the map, and from ambiguous ones of which some are replaced by easy-to-learn ones. All are measured on held-out easy
problems (in distribution) and on hard ones (out of it). Swayamdipta et al. 2020, arXiv 2009.10795.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.data.levels import EASY
from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.stats.intervals import DRAWS
from rlhf_e2h.studies import drawings
from rlhf_e2h.studies.cartography import measures
from rlhf_e2h.studies.probing.heads import HeadSettings, fit_head, probe, reduced
from rlhf_e2h.studies.probing.state_files import read_states
from rlhf_e2h.studies.probing.tables import auc_rows, columns, words

VERSION = 1
TRAITS = Traits(order=195, about="heads on shares of the labels, chosen by a data map", runs_model=False, seeded=False)
RANDOM, ALL = "random", "all"
Row = dict[str, Any]
Index = NDArray[np.intp]


@dataclass
class Config:
    """Settings of the `probe_curve` stage."""

    features: Input  # output of a probe_features stage
    kind: Literal["steps", "outcomes"] = "steps"
    easy_levels: list[int] = field(default_factory=lambda: list(EASY))  # the heads learn from these
    shares: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.17, 0.25, 0.33, 0.5])
    mix_share: float = 0.17  # of the labels, ambiguous ones, of which ...
    mixes: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.5])  # ... these parts become easy-to-learn
    test_share: float = 0.4  # of the easy problems; all hard ones are tested on
    repeats: int = 3  # with other orders of training, random shares and held-out problems for the penalty
    components: int = 128
    penalty: float = 0.003  # of the head whose dynamics are read
    head: HeadSettings = field(default_factory=HeadSettings)
    draws: int = DRAWS


def main(config: Config, run: StageRun) -> None:
    study = _Study(config, run)
    scores = []
    with run.progress(config.repeats, "heads", "repeats") as bar:
        for repeat in range(config.repeats):
            scores.append(study.scores(repeat))
            bar.advance(1)
    rows = []
    for group, chosen in (("hard", study.hard), ("easy", study.test)):
        part = [{name: values[chosen] for name, values in one.items()} for one in scores]
        names = [study.problems[i] for i in chosen]
        for share in [*config.shares, 1.0]:
            here = [{n: v for n, v in one.items() if n.endswith(_tail(share)) or n == ALL} for one in part]
            floor = f"{RANDOM}{_tail(share)}" if share < 1 else ALL
            found = auc_rows(here, study.right[chosen], names, (floor, ALL), "ratio", config.draws)
            rows += [{"test_on": group, "share": share, **r} for r in found if share == 1 or r["method"] != ALL]
    _report(config, run, study, rows)


def _tail(share: float) -> str:
    return f" {share:.0%}"


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

    def scores(self, repeat: int) -> dict[str, NDArray[np.floating]]:
        """Scores of all items by each arm: `ambiguous 10%`, ..., and `all`."""
        truth_M = self.right[self.train].astype(float)
        gold: list[NDArray[np.float64]] = []

        def log(_: int, logits_M: NDArray[np.floating]) -> None:
            gold.append(1 / (1 + np.exp(-np.where(truth_M > 0, logits_M, -logits_M).astype(np.float64))))

        x_MC = self.x[self.train]
        fit_head(x_MC, truth_M, self.config.penalty, "xent", self.config.head, repeat, log)
        gold_ME = np.stack(gold, axis=1)
        arms = self.arms(measures.metrics(gold_ME, gold_ME > 0.5), repeat)
        found: dict[str, NDArray[np.floating]] = {}
        for name, chosen in arms.items():
            rows = self.train[chosen]
            labels = self.right[rows].astype(float)
            if labels.min() == labels.max():  # a head that has seen one class tells nothing apart
                found[name] = np.zeros(len(self.x))
                continue
            found[name] = probe(self.x[rows], labels, [self.problems[i] for i in rows]).predict(self.x)
        return found

    def arms(self, values: dict[str, NDArray[np.float64]], repeat: int) -> dict[str, Index]:
        config, confidence_M = self.config, values["confidence"]
        found: dict[str, Index] = {}
        for share in config.shares:

            def take(metric: str, easy: float = 0.0, ends: Any = "best", share: float = share) -> Index:
                return np.array(measures.select(metric, values[metric], confidence_M, share, easy, ends))

            found[f"ambiguous{_tail(share)}"] = take("variability")
            found[f"hard{_tail(share)}"] = take("confidence")
            found[f"easy{_tail(share)}"] = take("confidence", ends="worst")
            rng = np.random.default_rng([repeat, 2])
            found[f"{RANDOM}{_tail(share)}"] = rng.permutation(len(confidence_M))[
                : measures.share_of(len(confidence_M), share)
            ]
            if share == config.mix_share:
                for mix in config.mixes:
                    found[f"ambiguous with {mix:.0%} easy{_tail(share)}"] = take("variability", mix)
        return {**found, ALL: np.arange(len(confidence_M))}


def _report(config: Config, run: StageRun, study: _Study, rows: Sequence[Row]) -> None:
    parts = []
    for share in config.shares:
        by = {r["method"]: r for r in rows if r["test_on"] == "hard" and r["share"] == share}
        named = ", ".join(f"{kind} {words(by[kind + _tail(share)])}" for kind in ("ambiguous", "hard", "easy", RANDOM))
        parts.append(f"{share:.0%} of the labels: {named}.")
    paragraph = f"AUC on hard problems, {len(study.train)} labels of easy problems in all. " + " ".join(parts)
    shown = [column for column in columns("ratio", "test_on", "share") if not column.startswith("ratio")]
    for group in ("hard", "easy"):
        curves = {
            kind: [
                (r["share"], r["auc"], r["low"], r["high"])
                for r in rows
                if r["test_on"] == group and (r["share"] == 1 or r["method"] == kind + _tail(r["share"]))
            ]
            for kind in ("ambiguous", "hard", "easy", RANDOM)
        }
        add_section(
            run.out, f"probe_curve_{group}", f"Heads on a share of the labels, tested on {group} problems",
            paragraph if group == "hard" else "The same on held-out easy problems.", shown,
            [r for r in rows if r["test_on"] == group],
            partial(drawings.curves, curves, "share of the labels", f"AUC on {group} problems", log=True),
            "over_floor: against as many random labels.",
        )  # fmt: skip
    console.print(paragraph, markup=False)
    run.finish(labels=len(study.train), hard=len(study.hard), easy=len(study.test), repeats=config.repeats)
