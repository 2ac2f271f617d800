"""Results, comparisons and the report page, from the evaluations of every seed.

Writes results.csv and results.json, report.html (one file, opens without a network), and figures/NAME.svg with its
numbers in figures/NAME.csv.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_e2h.data.levels import EASY, LEVELS
from rlhf_e2h.records import OUTCOMES
from rlhf_e2h.report import sources
from rlhf_e2h.report.comparisons import Comparison, Gap, compare, default_comparisons, default_gaps
from rlhf_e2h.report.compute import compute_rows, matches, prices
from rlhf_e2h.report.hacking import with_change_intervals
from rlhf_e2h.report.outcomes import Outcomes, read_outcomes
from rlhf_e2h.report.page import PageInput, write_page
from rlhf_e2h.report.results import build_results, write_results
from rlhf_e2h.report.section import read_sections
from rlhf_e2h.report.tables import mean_quality
from rlhf_e2h.report.terminal import print_results
from rlhf_e2h.runner.config import ConfigError, Inputs, NamedInputs
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.run_files import read_done
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.store import Resolved
from rlhf_e2h.runner.traits import STAGES, Traits
from rlhf_e2h.stats.intervals import DRAWS

VERSION = 3
TRAITS = Traits(
    order=260,
    about="results.csv, results.json and the report page",
    runs_model=False,
    seeded=False,  # one report for the run
    all_seeds=True,  # its inputs are the evaluations of every seed
    tiny={"draws": 100},
)


@dataclass
class Config:
    """Settings of the `report` stage."""

    evaluations: Inputs = field(default_factory=list)  # outputs of evaluate stages; those of every seed are read
    reward_models: NamedInputs = field(default_factory=dict)  # name in the tables -> output of a reward stage
    sections: Inputs = field(default_factory=list)  # outputs of study stages, each with a section.json
    comparisons: list[Comparison] = field(default_factory=list)  # beside the usual ones; each is treatment and baseline
    gaps: list[Gap] = field(default_factory=list)  # PGR beside the usual ones; each is student, weak and ceiling
    easy_levels: list[int] = field(default_factory=lambda: list(EASY))  # as in the prepare stage
    draws: int = DRAWS  # bootstrap draws of every interval

    def __post_init__(self) -> None:
        if not self.evaluations and not self.sections:
            raise ValueError(
                'evaluations is empty; name at least one, for example ["@evaluate"], or a study in sections'
            )
        if not set(self.easy_levels) < set(LEVELS):
            raise ValueError(f"easy_levels {self.easy_levels} is not allowed; name some of the levels 1 to 5, not all")
        if self.draws < 100:
            raise ValueError(f"draws is {self.draws}; an interval needs at least 100, usually {DRAWS}")


def main(config: Config, run: StageRun) -> None:
    """Build the results from the outcomes of every seed, then the page around them."""
    found = [resolved for reference in config.evaluations for resolved in run.inputs[reference]]
    folders = [resolved.path for resolved in found]
    files = [(_seed(resolved), resolved.path / OUTCOMES) for resolved in found]
    outcomes = read_outcomes(files, config.easy_levels) if files else Outcomes(config.easy_levels)
    comparisons = [*default_comparisons(outcomes), *config.comparisons]
    gaps = [*default_gaps(outcomes), *config.gaps]
    manifest = sorted(run.manifest(), key=lambda record: STAGES[record["stage"]].order)  # as data flows
    outcomes.subject = sources.problem_subjects(run.run_folder, manifest)
    trained = {name: run.paths(reference) for name, reference in config.reward_models.items()}
    quality = sources.reward_model_quality(folders, trained)
    results = build_results(outcomes, comparisons, gaps, config.draws)
    compute = _compute(config, run, outcomes, results, manifest)
    more = {"quality": mean_quality(quality), "compute": compute, "programs": sources.programs(folders)}
    write_results(results | more, run.out)
    page = PageInput(
        results=results,
        about=sources.about_run(run.run_folder, manifest),
        manifest=manifest,
        quality=quality,
        calibration=sources.calibration(folders),
        roc=sources.roc(folders),
        compute=compute,
        solutions=sources.readable_solutions(folders),
        hacking=with_change_intervals(sources.hacking_points(folders), files, config.draws)
        + sources.training_hacking_points(run.run_folder, manifest),
        training=sources.training_curves(run.run_folder, manifest),
        rollouts=sources.training_rollouts(run.run_folder, manifest),
        sections=read_sections(_study_folders(config, run)),
        settings=sources.stage_settings(run.run_folder, manifest),
        easy_levels=config.easy_levels,
    )
    write_page(page, run.out)
    run.finish(rows=len(results["rows"]), comparisons=len(results["comparisons"]), seeds=len(results["seeds"]))


def _compute(
    config: Config, run: StageRun, outcomes: Outcomes, results: dict[str, Any], manifest: list[dict[str, Any]]
) -> dict[str, Any]:
    """rows: accuracy beside compute; matched: policies against samples that cost no more, paired."""
    told = sources.evaluation_settings(run.run_folder, manifest)
    priced = prices(manifest, told, outcomes.conditions)
    rows = compute_rows(results, priced)
    found = matches(priced, rows[0]["problems"]) if rows else []
    differences = compare(outcomes, [one.comparison for one in found], config.draws)
    matched = [
        row
        | {"samples": one.samples, "policy_flops": one.policy_flops, "sampled_flops": one.sampled_flops}
        | {"break_even": one.break_even}
        for one, row in zip(found, differences, strict=True)
    ]
    return {"rows": rows, "matched": matched}


def _seed(resolved: Resolved) -> int:
    """The seed of an evaluation, from its completion record."""
    done = read_done(resolved.folder or resolved.path)
    if done is None:
        raise ConfigError(f"{resolved.path}: not the folder of a finished stage; give '@STAGE' or such a folder")
    return int(done["seed"])


def _study_folders(config: Config, run: StageRun) -> list[tuple[str, Path]]:
    """Folders of sections, each with what tells it from others: its stage, and its seed where the stage has several."""
    found = []
    for reference in config.sections:
        for resolved in run.inputs[reference]:
            seed = f", seed {_seed(resolved)}" if len(run.inputs[reference]) > 1 else ""
            found.append((reference.removeprefix("@") + seed, resolved.path))
    return found


def show(folder: Path) -> None:
    """Print the result table of a finished report and where its page is."""
    print_results(json.loads((folder / "results.json").read_text(encoding="utf-8")))
    console.print(f"report: {folder / 'report.html'}")
