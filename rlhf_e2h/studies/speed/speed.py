"""Measure how fast skills are learnt: steps until accuracy reaches a threshold, for runs with snapshots.

Decodes the test problems greedily with every snapshot of the runs (`snapshots` of an sft stage), over all seeds.
Writes curves.csv (run, skill, seed, step, accuracy), speed.csv and a section for the report: per-skill curves, their
mean, the step of the threshold with its bootstrap interval, area under the curve, and the ratio to a baseline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import Label, read_problems
from rlhf_e2h.data.levels import choose
from rlhf_e2h.data.solution_formats import Format, read_answer
from rlhf_e2h.report.results import write_csv
from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input, NamedInputs, setting
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Decoding, Row, sample
from rlhf_e2h.stats.intervals import paired_difference
from rlhf_e2h.studies.speed import measures as speed
from rlhf_e2h.studies.speed.section import MEAN, figure, paragraph
from rlhf_e2h.training.mixing import Skill, skill_of
from rlhf_e2h.training.models import open_policy
from rlhf_e2h.training.sft_plan import FORM_FILE, SNAPSHOTS

VERSION = 2
TRAITS = Traits(
    order=210,
    about="measure how fast skills are learnt, from the snapshots of fine-tuning runs",
    sealed_labels="evaluation",
    all_seeds=True,
)
COLUMNS = (
    "run", "skill", "threshold", "step", "step_low", "step_high", "ratio", "ratio_low", "ratio_high", "area",
    "area_difference", "area_low", "area_high", "last", "last_difference", "last_low", "last_high", "problems",
    "seeds", "reason",
)  # fmt: skip
CURVE_COLUMNS = ("run", "skill", "seed", "step", "accuracy")


@dataclass
class Config:
    """Settings of the `speed` stage."""

    data: Input  # output of a prepare stage
    runs: NamedInputs = field(default_factory=dict)  # name in the tables -> sft stage with snapshots
    baseline: str = ""  # the run that ratios and differences refer to; the first one if empty
    split: Literal["validation", "test"] = "test"
    skill: Skill = "level"
    levels: list[int] | None = None  # only problems of these levels
    limit: int | None = None  # at most N problems
    threshold: float = 0.9
    relative: bool = False  # the threshold is a share of the best accuracy of any run on that skill
    # the threshold is the last accuracy of the baseline on that skill: how soon does another run get as far?
    match: bool = field(default=False, metadata={"added": True})
    window: int = 2  # evaluations in a row that must reach it
    draws: int = 2000  # bootstrap draws
    max_new_tokens: int = 256
    batch_size: int = setting(256)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is empty; name at least one sft stage with snapshots")
        if self.baseline and self.baseline not in self.runs:
            raise ValueError(f"baseline {self.baseline!r} is none of {', '.join(self.runs)}")
        if not 0 < self.threshold <= 1 or self.window < 1 or self.draws < 100:
            raise ValueError("threshold lies above 0 and at most at 1, window is at least 1, draws at least 100")
        if self.match and (self.relative or self.window > 1):
            raise ValueError("match sets the threshold by the baseline's last evaluation; set window: 1, no `relative`")


def main(config: Config, run: StageRun) -> None:
    data = run.path(config.data)
    problems = choose(read_problems(data, config.split), config.levels, config.limit)
    if not problems:
        raise ConfigError(f"{run.name}: no {config.split} problems of levels {config.levels}; check `levels`")
    labels = run.labels(data, "full", "evaluation", splits=(config.split,))
    steps, folders = snapshots(config, run)
    total = len(problems) * sum(len(seeds) * len(steps) for seeds in folders.values())
    correct: dict[str, NDArray[np.float64]] = {}
    with run.progress(total, "decoding", "solutions") as bar, CheckerPool() as pool:
        for name, seeds in folders.items():
            decoded = [_decode(config, run, folder, steps, problems, labels, pool, bar.advance) for folder in seeds]
            correct[name] = np.stack(decoded, axis=2)  # evaluations x problems x seeds
    skills = [skill_of(problem, config.skill) for problem in problems]
    rows = measure(steps, correct, skills, config, run.seed)
    curves = _curves(steps, correct, skills)
    write_csv(run.out / "curves.csv", CURVE_COLUMNS, curves)
    add_section(
        run.out, "speed", f"Speed of learning: {run.name}", paragraph(rows, config.match, config.window), COLUMNS, rows,
        lambda: figure(steps, curves, rows, config.skill),
        "Accuracy by step: thin lines are skills, the thick one is their mean; the circle marks the threshold.", True,
    )  # fmt: skip
    reached = {row["run"]: row["step"] for row in rows if row["skill"] == MEAN}
    run.finish(problems=len(problems), **{k: v if v is not None else "censored" for k, v in reached.items()})


def snapshots(config: Config, run: StageRun) -> tuple[list[int], dict[str, list[Path]]]:
    """The steps that all runs have snapshots of, and the folders of each run's seeds.

    Raises:
        ConfigError: a run without snapshots, or with others than the first.
    """
    folders = {name: [path / SNAPSHOTS for path in run.paths(reference)] for name, reference in config.runs.items()}
    found: dict[str, list[int]] = {}
    for name, seeds in folders.items():
        for folder in seeds:
            steps = sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))
            if not steps:
                raise ConfigError(f"{run.name}: {name} has no snapshots; set `snapshots` in its stage")
            if steps != found.setdefault("", steps):
                raise ConfigError(f"{run.name}: {name} has snapshots at {steps}, the first run at {found['']}")
    if len({len(seeds) for seeds in folders.values()}) > 1:
        raise ConfigError(f"{run.name}: the runs have different numbers of seeds; run the same")
    return found[""], folders


def _decode(
    config: Config, run: StageRun, folder: Path, steps: Sequence[int], problems: list[Row],
    labels: Mapping[str, Label], pool: CheckerPool, on_batch: Any,
) -> NDArray[np.float64]:  # fmt: skip
    """Whether each answer is right, evaluations x problems."""
    form: Format = json.loads((folder / FORM_FILE).read_text(encoding="utf-8"))["form"]
    decoding = Decoding(n=1, temperature=0.0, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    verdicts = []
    for step in steps:
        policy = open_policy(folder / f"step_{step:06d}")
        rows = sample(policy, problems, decoding, run.seed, on_batch)
        texts = policy.text_format.of_rows()
        answers = [read_answer(row["text"], form, texts) if row["finished"] else None for row in rows]
        pairs = [(labels[row["problem_id"]].answer, answer) for row, answer in zip(rows, answers, strict=True)]
        verdicts.append([float(verdict.equal) for verdict in pool.check(pairs)])
    return np.array(verdicts)


def measure(
    steps: Sequence[int], correct: Mapping[str, NDArray[np.float64]], skills: Sequence[str], config: Config, seed: int
) -> list[dict[str, Any]]:
    """A row for each run and skill, and for the mean of the skills; nulls with a reason where a curve is censored."""
    base = config.baseline or next(iter(correct))
    groups = {skill: np.array([one == skill for one in skills]) for skill in sorted(set(skills))}
    rows = []
    for skill, inside in groups.items():
        threshold = _threshold({name: one[:, inside].mean(axis=(1, 2)) for name, one in correct.items()}, base, config)
        stacked = np.stack([one[:, inside] for one in correct.values()])  # runs x evaluations x problems x seeds
        place = list(correct).index(base)
        match = place if config.match else None
        draws = speed.crossing_draws(steps, stacked, threshold, config.window, config.draws, seed, match)
        for index, name in enumerate(correct):
            row = {"run": name, "skill": skill, "threshold": round(threshold, 4), "problems": int(inside.sum())}
            rows.append(row | _figures(steps, stacked, draws, index, place, threshold, config, seed))
    if len(groups) > 1:
        rows += _means(steps, correct, groups, config, base)
    return rows


def _threshold(curves: Mapping[str, NDArray[np.float64]], base: str, config: Config) -> float:
    """The threshold of one skill, for the curves (E,) of all runs."""
    if config.match:
        return max(float(curves[base][-1]), np.finfo(float).eps)  # of 0 there is no first step
    return speed.thresholds([max(float(one.max()) for one in curves.values())], config.threshold, config.relative)


def _figures(
    steps: Sequence[int], stacked: NDArray[np.float64], draws: NDArray[np.float64], index: int, base: int,
    threshold: float, config: Config, seed: int,
) -> dict[str, Any]:  # fmt: skip
    curves = stacked.mean(axis=(2, 3))
    here, there = (speed.crossing(steps, curves[i], threshold, config.window) for i in (index, base))
    interval = speed.censored_interval(here.step, draws[:, index], here.reason)
    row: dict[str, Any] = {
        "step": _round(here.step, 1), "step_low": _round(interval.low, 1), "step_high": _round(interval.high, 1),
        "area": round(speed.area(steps, curves[index]), 4), "last": round(float(curves[index][-1]), 4),
        "seeds": stacked.shape[3], "reason": here.reason or interval.reason,
    }  # fmt: skip
    if index == base:
        return row
    gain = speed.ratio(there, here)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = draws[:, base] / draws[:, index]
    if gain.step is not None:
        found = speed.censored_interval(gain.step, np.where(np.isnan(ratios), np.inf, ratios))
        row |= {"ratio": _round(gain.step, 2), "ratio_low": _round(found.low, 2), "ratio_high": _round(found.high, 2)}
    areas: NDArray[np.float64] = stacked[:, 0]
    if len(steps) > 1:
        areas = np.asarray(np.trapezoid(stacked, steps, axis=1)) / (steps[-1] - steps[0])
        areas = areas.clip(0, 1)  # rounding
    for name, values in (("area", areas), ("last", stacked[:, -1])):
        against = paired_difference(values[index], values[base], seed=seed)
        bounds = {"difference": against.estimate, "low": against.low, "high": against.high}
        row |= {f"{name}_{bound}": round(value, 4) for bound, value in bounds.items()}
    return row


def _means(
    steps: Sequence[int], correct: Mapping[str, NDArray[np.float64]], groups: Mapping[str, NDArray[np.bool_]],
    config: Config, base: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """The mean of the skills' curves: a summary without an interval of its own."""
    curves = {
        name: np.mean([one[:, inside].mean(axis=(1, 2)) for inside in groups.values()], axis=0)
        for name, one in correct.items()
    }
    threshold = _threshold(curves, base, config)
    found = {name: speed.crossing(steps, curve, threshold, config.window) for name, curve in curves.items()}
    rows = []
    for name, curve in curves.items():
        gain = speed.ratio(found[base], found[name]) if name != base else None
        rows.append(
            {
                "run": name,
                "skill": MEAN,
                "threshold": round(threshold, 4),
                "step": _round(found[name].step, 1),
                "ratio": _round(gain.step, 2) if gain else None,
                "area": round(speed.area(steps, curve), 4),
                "last": round(float(curve[-1]), 4),
                "seeds": next(iter(correct.values())).shape[2],
                "problems": int(sum(inside.sum() for inside in groups.values())),
                "reason": found[name].reason,
            }
        )
    return rows


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _curves(
    steps: Sequence[int], correct: Mapping[str, NDArray[np.float64]], skills: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    for name, one in correct.items():
        for skill in sorted(set(skills)):
            means_ES = one[:, [i for i, s in enumerate(skills) if s == skill]].mean(axis=1)
            for seed in range(means_ES.shape[1]):
                for step, value in zip(steps, means_ES[:, seed], strict=True):
                    rows.append({"run": name, "skill": skill, "seed": seed, "step": step, "accuracy": round(value, 4)})
    return rows
