"""Annotate problems with measures of difficulty, group them by quantiles, and say how far the measures agree.

Writes difficulty.jsonl (a row for each problem) and spearman.csv with its heat map. What depends on the solution of a
hard problem needs `labels: full`, and so a stage name that says so; otherwise it is null for hard problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from reward_models.model import pick_device
from reward_models.records import write_jsonl
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.records import Row, read_graded
from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.drawings import heat_map
from rlhf_e2h.studies.features import last_token_features, solution_texts
from rlhf_e2h.studies.gap import difficulty_measures as difficulty
from rlhf_e2h.studies.gap import mdl
from rlhf_e2h.studies.gap.difficulty_measures import MEASURES
from rlhf_e2h.text_formats import FormatSettings, format_of
from rlhf_e2h.training.models import Policy, open_policy

VERSION = 2
TRAITS = Traits(
    order=220,
    about="measure how hard problems are, and how far the measures agree",
)
MDL = ("mdl_probe", "prequential_bits")
COLUMNS = ("measure", "with", "rho", "problems", "null_because")


@dataclass
class Config:
    """Settings of the `difficulty` stage."""

    data: Input  # output of a prepare stage
    labels: Literal["easy", "full"] = "easy"  # whose solutions are measured; full only in a stage that says so
    split: Literal["train", "validation", "test"] = "train"
    model: Input | None = None  # language model for log-likelihoods and for the hidden states of MDL
    graded: Input | None = None  # graded samples, several a problem: MDL is how hard it is to learn which are right
    sizes: list[int] = field(default_factory=lambda: list(mdl.SIZES))  # problems that the MDL probe is refitted on
    repeats: int = 3  # draws of each size, and orders of the prequential code
    layers: Literal["middle", "last", "hase"] = "hase"
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings, metadata={"added": True})
    template: str | None = None  # text before a solution, with {problem}, for MDL

    def __post_init__(self) -> None:
        if self.graded and not self.model:
            raise ValueError("graded without model: MDL reads hidden states; name a model")


def main(config: Config, run: StageRun) -> None:
    data = run.path(config.data)
    labels = run.labels(data, config.labels, splits=(config.split,))
    problems = read_problems(data, config.split)
    if not problems:
        raise ConfigError(f"{run.name}: no {config.split} problems in {config.data}")
    policy = (
        open_policy(run.path(config.model), device=pick_device(None), text_format=config.format)
        if config.model
        else None
    )
    if policy:
        run.use_format(policy.text_format, policy.why)
    rows: list[Row] = []
    with run.progress(len(problems), "measuring", "problems") as bar:
        for problem in problems:
            label = labels.get(problem["problem_id"])
            text, solution = problem["problem"], (label.solution or None) if label else None
            row = {"problem_id": problem["problem_id"], "level": problem["level"]}
            row |= difficulty.counted(text, label.answer if label else None, solution)
            rows.append(row | (_likelihoods(policy, text, solution) if policy else {}))
            bar.advance(1)
    if config.graded:
        _add_mdl(config, run, problems, rows)
    measures = ["level", *difficulty.COUNTS, *difficulty.LIKELIHOODS, *MDL]
    measures = [m for m in measures if any(row.get(m) is not None for row in rows)]
    reasons = difficulty.with_groups(rows, measures)
    write_jsonl(run.out / MEASURES, rows)
    write_json(run.out / "without_groups.json", reasons)
    _section(run, difficulty.spearman(rows, measures), measures, len(rows))
    run.finish(problems=len(rows), measures=len(measures))


def _likelihoods(policy: Policy, problem: str, solution: str | None) -> Row:
    return difficulty.likelihoods(policy.model, policy.tokenizer, problem, solution, policy.text_format)


def _add_mdl(config: Config, run: StageRun, problems: list[Row], rows: list[Row]) -> None:
    by_id = {problem["problem_id"]: problem for problem in problems}
    graded = read_graded(run.path(str(config.graded)))
    graded = [row for row in graded if row["problem_id"] in by_id]
    if not graded:
        raise ConfigError(f"{run.name}: no graded sample belongs to a {config.split} problem; check `graded`")
    ids = list(dict.fromkeys(row["problem_id"] for row in graded))
    place = {problem_id: index for index, problem_id in enumerate(ids)}
    texts = solution_texts(by_id, graded, config.template, format_of(run.path(str(config.graded))))
    x_ND = last_token_features(run.path(str(config.model)), texts, config.layers)
    labels_N = np.array([float(row["correct"]) for row in graded])
    problem_N = np.array([place[row["problem_id"]] for row in graded])
    values = {
        "mdl_probe": mdl.learning_curve_mdl(x_ND, labels_N, problem_N, config.sizes, config.repeats, run.seed),
        "prequential_bits": mdl.prequential_bits(x_ND, labels_N, problem_N, config.sizes, config.repeats, run.seed),
    }
    for row in rows:
        index = place.get(row["problem_id"])
        row |= {name: float(found[index]) if index is not None else None for name, found in values.items()}


def _section(run: StageRun, table: list[Row], measures: list[str], problems: int) -> None:
    by_pair = {(row["measure"], row["with"]): row["rho"] for row in table}
    shown = [m for m in measures if by_pair[m, m] is not None]  # the table says why the others have none
    values = np.array([[np.nan if by_pair[a, b] is None else by_pair[a, b] for b in shown] for a in shown])
    with_level = [(m, by_pair["level", m]) for m in measures if m != "level"] if "level" in measures else []
    words = ", ".join(f"{m} {rho:+.2f}" for m, rho in with_level if rho is not None)
    add_section(
        run.out, "spearman", "Measures of difficulty", f"Spearman's rank correlation with the level over {problems} "
        f"problems: {words or 'none'}.", COLUMNS, table, lambda: heat_map(values, shown, shown, "", ""),
        "Rank correlation of every pair of measures.",
    )  # fmt: skip
    run.log({f"spearman/level_{measure}": rho for measure, rho in with_level if rho is not None})
