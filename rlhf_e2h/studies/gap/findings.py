"""Tables, intervals, tests and figures of a gap or weak-to-strong study, over all seeds of the recipe.

Writes CSV files, their figures, and section.json with a paragraph of what came out, which the report page takes over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.records import read_jsonl
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.data.levels import EASY
from rlhf_e2h.records import Row, read_graded
from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.stats.intervals import DRAWS
from rlhf_e2h.studies import drawings
from rlhf_e2h.studies.gap import results as gap_results
from rlhf_e2h.studies.gap.results import ITEMS
from rlhf_e2h.studies.weak_to_strong import results as weak_results
from rlhf_e2h.studies.weak_to_strong.results import SCORES

VERSION = 1
TRAITS = Traits(
    order=250,
    about="intervals, tests and figures of a gap or weak-to-strong study over all seeds",
    seeded=False,
    all_seeds=True,
)


@dataclass
class Config:
    """Settings of the `findings` stage."""

    gap: Input | None = None  # a gap study
    weak_to_strong: Input | None = None  # a weak-to-strong study; it needs the three below
    ceiling: Input | None = None  # its ceiling
    graded: Input | None = None  # truth of its bank: a grade stage with purpose: evaluation
    data: Input | None = None  # output of a prepare stage
    reference: str = "xent"  # student against which the others are tested
    hard_cost: float = 2.0  # labels: a hard one costs this many easy ones
    easy_levels: list[int] = field(default_factory=lambda: list(EASY))  # as in the prepare stage
    draws: int = DRAWS  # bootstrap draws of every interval

    def __post_init__(self) -> None:
        if bool(self.gap) == bool(self.weak_to_strong):
            raise ValueError("give one study: `gap` or `weak_to_strong`")
        if self.weak_to_strong and not (self.ceiling and self.graded and self.data):
            raise ValueError("weak_to_strong needs `ceiling`, `graded` (truth of the bank) and `data`")


def main(config: Config, run: StageRun) -> None:
    paragraph = _gap(config, run) if config.gap else _weak_to_strong(config, run)
    console.print(paragraph, markup=False)
    run.finish(seeds=len(run.paths(str(config.gap or config.weak_to_strong))))


def _weak_to_strong(config: Config, run: StageRun) -> str:
    problems = read_problems(run.path(str(config.data)), "test")
    seeds = len(run.paths(str(config.weak_to_strong)))
    inputs = [run.paths(str(r)) for r in (config.weak_to_strong, config.ceiling, config.graded)]
    # a folder from outside the recipe is the same for all seeds
    folders = zip(*(paths * seeds if len(paths) == 1 else paths for paths in inputs), strict=True)
    banks = [_scored_bank(problems, [students, ceiling], graded) for students, ceiling, graded in folders]
    levels = [problem["level"] for problem in problems]
    rows = weak_results.table(banks, levels, config.easy_levels, config.draws)
    hard_levels = sorted({level for level in levels if level is not None} - set(config.easy_levels))
    tested = weak_results.against_reference(banks, levels, config.reference, hard_levels)
    shown = [row for row in rows if row["test_on"] == "hard" and row["metric"] == "auc"]
    ends = {row["method"]: row["value"] for row in shown if row["method"] in ("weak", "ceiling") and "value" in row}
    paragraph = _weak_words(rows, tested, config.reference)
    add_section(
        run.out, "weak_to_strong", "Weak-to-strong: AUC on hard problems", paragraph, weak_results.COLUMNS, shown,
        lambda: drawings.dots(shown, "method", ["hard"], "test_on", "AUC on hard problems", ends),
        "95 % intervals over problems and seeds; dashed: weak supervisor and ceiling.",
    )  # fmt: skip
    by_level = [r for r in rows if r["metric"] == "auc" and r["test_on"].startswith("level ")]
    chosen = [r for r in by_level if int(r["test_on"].removeprefix("level ")) in hard_levels]
    names = [f"level {level}" for level in hard_levels]
    add_section(
        run.out, "weak_to_strong_levels", "Weak-to-strong by level",
        "AUC, best-of-n accuracy and PGR by level; where PGR is null the table says why.", weak_results.COLUMNS, rows,
        lambda: drawings.dots(chosen, "method", names, "test_on", "AUC", {}), "95 % intervals.",
    )  # fmt: skip
    add_section(
        run.out, "weak_to_strong_tests", f"Paired tests against {config.reference}",
        "A unit is one hard level under one seed.", weak_results.TEST_COLUMNS, tested,
    )  # fmt: skip
    return paragraph


def _scored_bank(problems: Sequence[Row], scored: Sequence[Path], graded: Path) -> weak_results.ScoredBank:
    place = {problem["problem_id"]: index for index, problem in enumerate(problems)}
    truth = read_graded(graded, "sample_id", "finished")
    number = {(row["problem_id"], row["sample_id"]): index for index, row in enumerate(truth)}
    scores: dict[str, Any] = {}
    for folder in scored:
        for row in read_jsonl(folder / SCORES, required=("method", "problem_id", "sample_id", "score")):
            key = (row["problem_id"], row["sample_id"])
            if key not in number:
                raise ConfigError(f"{folder}: sample {key} has a score and no truth; grade the same bank")
            scores.setdefault(row["method"], np.full(len(truth), np.nan))[number[key]] = row["score"]
    for method, values in scores.items():
        if np.isnan(values).any():
            raise ConfigError(
                f"{method}: {int(np.isnan(values).sum())} samples of the bank have no score; run it again"
            )
    return weak_results.ScoredBank(
        np.array([place[row["problem_id"]] for row in truth]),
        np.array([row["correct"] for row in truth], dtype=bool),
        np.array([row["finished"] for row in truth], dtype=bool),
        scores,
    )


def _weak_words(rows: Sequence[Row], tested: Sequence[Row], reference: str) -> str:
    hard = {(r["method"], r["metric"]): r for r in rows if r["test_on"] == "hard"}
    parts = []
    for metric, words in (("auc", "AUC"), ("best_of_n", "best-of-n accuracy")):
        weak, student, top = (hard[m, metric] for m in ("weak", reference, "ceiling"))
        if weak.get("value") is None:
            parts.append(f"{words} on hard problems: null, {weak['pgr_null_because']}.")
            continue
        parts.append(
            f"{words} on hard problems, {weak['seeds']} seeds: weak {_interval(weak)}, student ({reference}) "
            f"{_interval(student)}, ceiling {_interval(top)}; PGR {_ratio(student, 'pgr')}."
        )
    ends = (weak_results.WEAK, weak_results.CEILING)
    others = [r for r in tested if r["metric"] == "auc" and r["method"] not in ends]
    clear = [r for r in others if r.get("t_p") is not None and r["t_p"] < 0.05]
    better = ", ".join(f"{r['method']} {r['difference']:+.3f} (p = {r['t_p']:.3f})" for r in clear)
    parts.append(
        f"Against {reference}, of {len(others)} other ways to use the weak labels these differ in AUC by a paired "
        f"t-test at 5 %, not corrected for their number: {better or 'none'}."
    )
    return " ".join(parts)


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _ratio(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return f"null ({row[f'{name}_null_because'] if f'{name}_null_because' in row else row['null_because']})"
    low, high = (f"{name}_low", f"{name}_high") if name == "pgr" else ("low", "high")
    return f"{row[name]:.2f} [{row[low]:.2f}, {row[high]:.2f}]"


def _gap(config: Config, run: StageRun) -> str:
    outcomes = gap_results.Outcomes([read_jsonl(folder / ITEMS) for folder in run.paths(str(config.gap))])
    rows = gap_results.accuracy_table(outcomes, config.easy_levels, config.draws)
    ratios = gap_results.sgr_table(outcomes, config.easy_levels, config.draws)
    most = gap_results.main_n(outcomes)

    def is_main(row: Row) -> bool:
        whole = row["n"] in (0, most[row["method"]]) and not row.get("train_on", "").startswith("level ")
        return row["test_on"] == "hard" and not row["noise"] and whole

    main_rows = [row for row in rows if is_main(row)]
    paragraph = _gap_words(main_rows, [row for row in ratios if is_main(row)])
    named = [{**r, "value": r.get("accuracy"), "arm": f"{r['method']}: {r['train_on']}"} for r in main_rows]
    add_section(
        run.out, "gap", "Supervision gap: accuracy on hard problems at equal n", paragraph, gap_results.COLUMNS,
        main_rows, lambda: drawings.dots(named, "arm", ["hard"], "test_on", "accuracy on hard problems", {}),
        f"Problems that each arm learns from: {', '.join(f'{method} {n}' for method, n in most.items())}. "
        "95 % intervals over problems and seeds.",
    )  # fmt: skip
    add_section(
        run.out, "gap_cells", "All cells", "Accuracy of every training on every test group.", gap_results.COLUMNS, rows
    )
    add_section(
        run.out, "gap_sgr", "Supervision gap recovered", "SGR = (easy - none) / (hard - none); null where hard labels "
        "do not clearly help.", gap_results.SGR_COLUMNS, ratios, open=True,
    )  # fmt: skip
    for method in dict.fromkeys(row["method"] for row in rows):
        _gap_figures(config, run, outcomes, rows, method, most[method])
    return paragraph


def _gap_figures(
    config: Config, run: StageRun, outcomes: gap_results.Outcomes, rows: Sequence[Row], method: str, n: int
) -> None:
    levels = [f"level {level}" for level in range(1, 6)]
    values = gap_results.heat_map(outcomes, method)
    if values is not None:
        cells = [
            {"train_on": train, "test_on": test, "accuracy": None if np.isnan(v) else float(v)}
            for train, line in zip(levels, values, strict=True)
            for test, v in zip(levels, line, strict=True)
        ]
        add_section(
            run.out, f"heat_{method}", f"{method}: trained on one level, tested on each", f"Each row learns from {n} "
            "problems of one level.", ("train_on", "test_on", "accuracy"), cells,
            lambda: drawings.heat_map(values, levels, levels, "tested on", "trained on"),
        )  # fmt: skip
    for name, words, found in (
        ("cost", "label cost", gap_results.cost_curve(rows, method, config.hard_cost)),
        ("noise", "p", gap_results.noise_curve(rows, method, n)),
    ):
        if max((len(points) for points in found.values()), default=0) < 2:
            continue
        table = [
            {"train_on": arm, words: x, "accuracy": value, "low": low, "high": high}
            for arm, points in found.items()
            for x, value, low, high in points
        ]
        title = {
            "cost": f"a hard label costs {config.hard_cost:g}",
            "noise": "easy labels redrawn with p, hard with 2p",
        }
        add_section(
            run.out, f"{name}_{method}", f"{method}: hard-test accuracy over {words}", f"Accuracy on hard problems; "
            f"{title[name]}.", ("train_on", words, "accuracy", "low", "high"), table,
            partial(drawings.curves, found, words, "accuracy", log=name == "cost"),
        )  # fmt: skip


def _gap_words(rows: Sequence[Row], ratios: Sequence[Row]) -> str:
    by_cell = {(row["method"], row["train_on"]): row for row in rows}
    parts = []
    for ratio in ratios:
        arms = [by_cell.get((ratio["method"], arm)) for arm in ("none", "easy", "hard")]
        if not all(arm and "accuracy" in arm for arm in arms):
            continue
        none, easy, hard = (f"{r['accuracy']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in arms if r)
        parts.append(
            f"{ratio['method']} on hard problems, {ratio['seeds']} seeds: none {none}, easy {easy}, hard {hard}; "
            f"SGR {_ratio(ratio, 'sgr')}."
        )
    return " ".join(parts) or "The study has no easy and hard arms to compare."
