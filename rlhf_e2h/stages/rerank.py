"""Score a sample bank with reward models; no label is read. Writes scored_NAME.jsonl for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward_models.records import read_jsonl, write_jsonl
from reward_models.score import Scorer
from rlhf_e2h.bank import Row, score
from rlhf_e2h.config import ConfigError, Input, NamedInputs, setting
from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.models import DTYPES, sampling_dtype
from rlhf_e2h.processes import join
from rlhf_e2h.runs import StageRun
from rlhf_e2h.shares import divided, share
from rlhf_e2h.stages.sample import OUTPUT as SAMPLES
from rlhf_e2h.traits import Traits

VERSION = 1
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


def scored_file(name: str) -> str:
    return f"scored_{name}.jsonl"


def main(config: Config, run: StageRun) -> None:
    if not config.reward_models:
        raise ConfigError(f"{run.name}: reward_models is empty; name at least one, for example `prm: '@prm'`")
    rows = read_jsonl(run.path(config.samples) / SAMPLES, required=("problem_id", "sample_id", "text"))
    data = run.path(config.data)
    problems = {problem["problem_id"]: problem for split in SPLITS for problem in read_problems(data, split)}
    place, dtype = join(), DTYPES[sampling_dtype()]
    total = len(share(rows, place)[1]) * len(config.reward_models)
    with run.progress(total, "scoring", "solutions") as bar:
        for name, reference in config.reward_models.items():
            scorer = Scorer.from_pretrained(run.path(reference), place.device, dtype, config.max_tokens_per_batch)

            def work(own: Sequence[Row], *_: object, scorer: Scorer = scorer, name: str = name) -> list[Row]:
                return score(own, problems, scorer, name, bar.advance)

            scored = divided(rows, place, work, run.spend)
            if run.is_main:
                write_jsonl(run.out / scored_file(name), scored)
    run.finish(solutions=len(rows), reward_models=len(config.reward_models))
