"""Score a sample bank with reward models; no label is read. Writes scored_NAME.jsonl for each model.

One model is in memory at a time. A killed stage resumes with the solutions whose scores are not saved yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from reward_models.records import write_jsonl
from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.parallel.processes import join
from rlhf_e2h.records import read_samples, scored_file
from rlhf_e2h.runner.config import ConfigError, Input, NamedInputs, setting
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank_work import score_bank
from rlhf_e2h.samples.unsplit import report_unsplit
from rlhf_e2h.text_formats import format_of

VERSION = 2
TRAITS = Traits(
    order=90,
    about="score a sample bank with reward models",
    distributed=True,
)


@dataclass
class Config:
    """Settings of the `rerank` stage."""

    samples: Input  # output of a sample stage
    data: Input  # output of a prepare stage
    reward_models: NamedInputs  # name in the tables -> reward model
    max_tokens_per_batch: int = setting(16384, affects_result=False)


def main(config: Config, run: StageRun) -> None:
    if not config.reward_models:
        raise ConfigError(f"{run.name}: reward_models is empty; name at least one, for example `prm: '@prm'`")
    rows = read_samples(run.path(config.samples), "sample_id")
    data = run.path(config.data)
    problems = {problem["problem_id"]: problem for split in SPLITS for problem in read_problems(data, split)}
    rank, texts = join(), format_of(run.path(config.samples))
    cost = {}
    for name, reference in config.reward_models.items():
        model, title = run.path(reference), f"scoring {name}"
        parts = score_bank(run, rows, problems, model, rank, title, name, config.max_tokens_per_batch, texts)
        if run.is_main:
            write_jsonl(run.out / scored_file(name), parts.rows())
            cost[name] = parts.cost()
            run.spend(*cost[name])
    report_unsplit(run, rows, [run.path(reference) for reference in config.reward_models.values()])
    run.finish(solutions=len(rows), reward_models=len(config.reward_models), cost=cost)
