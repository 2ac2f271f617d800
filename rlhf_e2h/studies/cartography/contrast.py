"""Compare reward models on graded samples, paired over problems and seeds: step AUC and best-of-n, easy and hard.

For studies of what a reward model is trained on. Reads a graded sample bank (`grade` with `purpose: evaluation`) and
reward models, each for every seed of the run. Writes scores_NAME_SEED.jsonl and a section for the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_models.kinds import kind_of
from reward_models.records import write_jsonl
from reward_models.score import Scorer
from rlhf_e2h.data import procedural
from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.records import read_graded
from rlhf_e2h.report.section import add_section
from rlhf_e2h.report.svg import MARKER, SERIES, new_figure
from rlhf_e2h.runner.config import ConfigError, Input, NamedInputs
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Row, aggregate_steps, as_matrix, score
from rlhf_e2h.stats.auc import auc_kernel, bootstrap_aucs
from rlhf_e2h.stats.intervals import Interval, bootstrap_mean, interval_from_draws, paired_difference
from rlhf_e2h.text_formats import format_of

VERSION = 2
TRAITS = Traits(
    order=190,
    about="compare reward models on graded samples, paired over problems and seeds",
    all_seeds=True,
)
GROUPS = {"easy": (1, 2, 3), "hard": (4, 5)}
COLUMNS = ("reward_model", "levels", "figure", "estimate", "low", "high", "difference", "difference_low",
           "difference_high", "problems", "seeds", "reason")  # fmt: skip


@dataclass
class Config:
    """Settings of the `contrast` stage."""

    graded: Input  # output of a grade stage
    data: Input  # output of a prepare stage
    reward_models: NamedInputs = field(default_factory=dict)  # name in the tables -> reward model
    baseline: str = ""  # the model that differences are taken from; the first one if empty
    step_labels: Literal["procedural", "none"] = "none"  # how steps are checked, for step AUC
    aggregation: str = "min"  # of step scores, for best-of-n
    draws: int = 2000  # bootstrap draws of AUCs

    def __post_init__(self) -> None:
        if not self.reward_models:
            raise ValueError("reward_models is empty; name at least one, for example `prm: '@prm'`")
        if self.baseline and self.baseline not in self.reward_models:
            raise ValueError(f"baseline {self.baseline!r} is none of {', '.join(self.reward_models)}")


@dataclass
class Judged:
    """What one reward model says in one seed: step scores with their labels, and whether its best solution is right."""

    scores: NDArray[np.float64]  # (N,) of steps
    labels: NDArray[np.bool_]  # (N,)
    problem: NDArray[np.int64]  # (N,) number of the problem
    best: NDArray[np.float64]  # (P,)


def main(config: Config, run: StageRun) -> None:
    problems = {p["problem_id"]: p for split in SPLITS for p in read_problems(run.path(config.data), split)}
    banks = [read_graded(path) for path in run.paths(config.graded)]
    ids = list(dict.fromkeys(row["problem_id"] for row in banks[0]))
    if any(list(dict.fromkeys(row["problem_id"] for row in bank)) != ids for bank in banks):
        raise ConfigError(f"{run.name}: the banks of the seeds hold different problems; sample the same ones")
    judged: dict[str, list[Judged]] = {}
    total = sum(map(len, banks)) * len(config.reward_models)
    paths = {name: run.paths(reference) for name, reference in config.reward_models.items()}
    many = max(len(banks), *map(len, paths.values()))
    strange = [name for name, found in paths.items() if len(found) not in (1, many)]
    if strange or len(banks) not in (1, many):
        raise ConfigError(
            f"{run.name}: {strange or 'the bank'} has fewer seeds than the {many} of others; run the same"
        )
    with run.progress(total, "scoring", "solutions") as bar:
        for name, found in paths.items():
            judged[name] = [
                _judge(
                    config, run, name, seed, found[seed % len(found)], banks[seed % len(banks)], problems, bar.advance
                )
                for seed in range(many)
            ]
    levels = [problems[key]["level"] for key in ids]
    rows = compare(judged, levels, config.baseline or next(iter(judged)), config.draws, run.seed)
    add_section(
        run.out, "contrast", f"Reward models compared: {run.name}", _paragraph(rows), COLUMNS, rows,
        lambda: _figure(rows), "Bars: mean over seeds; whiskers: 95 % bootstrap over problems and seeds.",
    )  # fmt: skip
    hard = {r["reward_model"]: r.get("estimate") for r in rows if (r["levels"], r["figure"]) == ("hard", "step_auc")}
    run.finish(**{name: value for name, value in hard.items() if value is not None})


def _judge(
    config: Config, run: StageRun, name: str, seed: int, path: Path, bank: Sequence[Row],
    problems: Mapping[str, Row], on_row: Any,
) -> Judged:  # fmt: skip
    scorer = Scorer.from_pretrained(path)
    texts = format_of(run.path(config.graded))
    scored = score(bank, problems, scorer, name, on_row, texts)
    write_jsonl(run.out / f"scores_{name}_{seed}.jsonl", scored)
    how = config.aggregation if kind_of(scorer.contract.kind).steps else "last"
    ids, best_PK = as_matrix(scored, aggregate_steps(scored, how), "the bank")
    correct_PK = as_matrix(scored, [bool(row["correct"]) for row in scored])[1]
    number = {key: index for index, key in enumerate(ids)}
    steps: list[tuple[float, int, int]] = []
    for row in scored if config.step_labels == "procedural" else []:
        labels = procedural.step_labels(problems[row["problem_id"]]["problem"], texts.split_steps(row["text"]))
        steps += [(s, y, number[row["problem_id"]]) for s, y in zip(row["step_scores"], labels, strict=True)]
    table = np.array(steps, dtype=np.float64).reshape(-1, 3)
    best_P = correct_PK[np.arange(len(ids)), best_PK.argmax(axis=1)].astype(np.float64)
    return Judged(table[:, 0], table[:, 1] > 0, table[:, 2].astype(np.int64), best_P)


def compare(
    judged: Mapping[str, Sequence[Judged]], levels: Sequence[int | None], baseline: str, draws: int, seed: int
) -> list[Row]:
    """A row for each model, group of levels and figure; nulls with a reason where a group has nothing to say."""
    rows = []
    for group, members in GROUPS.items():
        inside = np.array([level in members for level in levels])
        aucs = _aucs(judged, inside, draws, seed) if inside.any() else f"no problem of levels {members}"
        for place, (name, runs) in enumerate(judged.items()):
            fixed = {"reward_model": name, "levels": group, "problems": int(inside.sum()), "seeds": len(runs)}
            if isinstance(aucs, str):
                rows.append({**fixed, "figure": "step_auc", "reason": aucs})
            else:
                draws_DC, means_C = aucs
                base = list(judged).index(baseline)
                value = interval_from_draws(draws_DC[:, place], means_C[place], int(inside.sum()))
                delta_D, delta = draws_DC[:, place] - draws_DC[:, base], means_C[place] - means_C[base]
                difference = interval_from_draws(delta_D, delta, int(inside.sum())) if place != base else None
                rows.append(_row({**fixed, "figure": "step_auc"}, value, difference))
            if not inside.any():
                rows.append({**fixed, "figure": "best_of_n", "reason": aucs})
                continue
            best_PS = np.stack([one.best for one in runs], axis=1)[inside]
            base_PS = np.stack([one.best for one in judged[baseline]], axis=1)[inside]
            paired = paired_difference(best_PS, base_PS, seed=seed) if name != baseline else None
            rows.append(_row({**fixed, "figure": "best_of_n"}, bootstrap_mean(best_PS, seed=seed), paired))
    return rows


def _aucs(judged: Mapping[str, Sequence[Judged]], inside: NDArray[np.bool_], draws: int, seed: int) -> Any:
    """Step AUCs of all models in the same resamples of problems, or why there are none."""
    number_P = np.cumsum(inside) - 1  # among the problems inside
    kernels: list[list[Any]] = []
    for runs in judged.values():
        kernels.append([])
        for one in runs:
            kept = inside[one.problem]
            parts = one.scores[kept], one.labels[kept], number_P[one.problem[kept]]
            kernels[-1].append(auc_kernel(*parts, int(inside.sum())))
    return bootstrap_aucs(kernels, draws, seed)


def _row(fixed: Row, value: Interval, difference: Interval | None) -> Row:
    row = {**fixed, "estimate": round(value.estimate, 4), "low": round(value.low, 4), "high": round(value.high, 4)}
    if difference is not None:
        found = {"": difference.estimate, "_low": difference.low, "_high": difference.high}
        row |= {f"difference{k}": round(v, 4) for k, v in found.items()}
    return row


def _paragraph(rows: Sequence[Row]) -> str:
    parts = []
    for row in rows:
        if row["levels"] != "hard" or row.get("estimate") is None:
            continue
        text = f"{row['reward_model']}: {row['figure']} {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        if "difference" in row:
            low, high = row["difference_low"], row["difference_high"]
            text += f", {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] against the baseline"
        parts.append(text)
    return "On hard problems, " + "; ".join(parts) + "." if parts else "No hard problems to compare on."


def _figure(rows: Sequence[Row]) -> Any:
    figure, axes = new_figure(6.4, 3.4)
    axes.remove()
    for place, kind in zip(figure.subplots(1, 2), ("step_auc", "best_of_n"), strict=True):
        shown = [r for r in rows if r["figure"] == kind and r["levels"] == "hard" and r.get("estimate") is not None]
        for number, row in enumerate(shown):
            colour = MARKER[SERIES[number % len(SERIES)]]
            error = [[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]]
            place.errorbar([row["estimate"]], [number], xerr=error, fmt="o", color=colour, capsize=3)
        place.set_yticks(range(len(shown)), [row["reward_model"] for row in shown])
        place.set_title(f"{kind.replace('_', ' ')}, hard problems")
        place.invert_yaxis()
        place.grid(True)
    return figure
