"""Measure reward models on solutions whose steps people have labelled, such as PRM800K's test part.

Reads the problems of a `prepare` stage for their levels, and the labelled solutions of those in `split`. No training
stage reads what this one writes. Writes quality.json, with 95 % intervals that resample problems, and a line a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig

from reward_models.contract import StepContract
from reward_models.records import Stepwise
from reward_models.score import Scorer
from reward_models.shared_prefixes import reads_trees
from rlhf_e2h.data.files import iter_rows
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.data.levels import problem_key
from rlhf_e2h.data.prm800k import read_prm800k
from rlhf_e2h.data.solutions import Solution, without_repeats
from rlhf_e2h.parallel.processes import release_memory
from rlhf_e2h.runner.config import ConfigError, Input, Inputs, NamedInputs, setting
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.quality import easy_levels_of, quality_by_group
from rlhf_e2h.training.models import DTYPES
from rlhf_e2h.training.precision import sampling_dtype
from rlhf_e2h.training.reward_records import at_most

VERSION = 3
TRAITS = Traits(
    order=95,
    about="measure reward models on solutions whose steps people labelled",
)
OUTPUT = "quality.json"


@dataclass
class Config:
    """Settings of the `assess` stage."""

    data: Input  # output of a prepare stage: its problems give the levels
    records: Inputs  # files of PRM800K
    reward_models: NamedInputs  # name in the tables -> reward model
    split: Literal["train", "validation", "test"] = "test"  # only solutions of these problems
    limit: int | None = None  # at most N labelled solutions, at random, the same for all reward models
    max_tokens_per_batch: int = setting(16384, affects_result=False)


def main(config: Config, run: StageRun) -> None:
    if not config.reward_models or not config.records:
        raise ConfigError(f"{run.name}: reward_models and records must each name something")
    data = run.path(config.data)
    problems = {problem_key(row["problem"]): row for row in read_problems(data, config.split)}
    found = [(problems.get(problem_key(s.original)), s) for s in without_repeats(_solutions(config, run))]
    known = [(problem, solution) for problem, solution in found if problem is not None]
    if not known:
        raise ConfigError(
            f"{run.name}: none of the {len(found)} labelled solutions is of a {config.split} problem of {data}; "
            "check `split` and `records`"
        )
    known = at_most(known, config.limit, run.seed)
    records = [
        Stepwise(s.problem, list(s.steps), list(s.labels or ()), extra={"first_error": s.first_error}) for _, s in known
    ]
    levels = [problem["level"] for problem, _ in known]
    ids = [problem["problem_id"] for problem, _ in known]
    quality: dict[str, Any] = {}
    for name, reference in config.reward_models.items():
        path = run.path(reference)
        scored = _scores(run, path, name, records, config.max_tokens_per_batch)
        kind = StepContract.from_config(AutoConfig.from_pretrained(path), str(path)).kind
        quality[name] = quality_by_group(records, scored, kind, ids, levels, easy_levels_of(data))
        hard = quality[name].get("hard", quality[name]["all"])
        run.log({f"assess/{name}/step_auc_hard": hard["step_auc"]})
        run.finish(**{f"{name}_step_auc_hard": hard["step_auc"]})
        release_memory()
    write_json(run.out / OUTPUT, quality)
    run.finish(solutions=len(known), problems=len(set(ids)), not_of_this_split=len(found) - len(known))


def _solutions(config: Config, run: StageRun) -> Iterable[Solution]:
    rows = (row for place in config.records for row in iter_rows(run.path(place)))
    return (s for s in read_prm800k(rows) if s.labels and any(label is not None for label in s.labels))


def _scores(run: StageRun, path: Path, name: str, records: list[Stepwise], max_tokens_per_batch: int) -> list[Any]:
    scorer = Scorer.from_pretrained(path, None, DTYPES[sampling_dtype(path)], max_tokens_per_batch)
    scorer.share_prefixes = reads_trees(scorer.model)  # people label several continuations of the same steps
    with run.progress(len(records), f"scoring {name}", "solutions") as bar:
        return list(scorer.score_stream(((r.problem, r.steps) for r in records), on_scored=bar.advance))
