"""Sample solutions from a policy. Reads a policy and the problems of a `prepare` stage; writes samples.jsonl.

A killed stage resumes with the problems whose solutions are not saved yet: at most a few minutes' work is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reward_models.records import write_jsonl
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.data.levels import choose
from rlhf_e2h.parallel.processes import join
from rlhf_e2h.records import SAMPLES
from rlhf_e2h.runner.config import ConfigError, Input, setting
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.answers import say_missing_answers, say_unfinished
from rlhf_e2h.samples.bank import Decoding
from rlhf_e2h.samples.bank_work import sample_bank
from rlhf_e2h.text_formats import FormatSettings, save_format
from rlhf_e2h.training.models import policy_format

VERSION = 2
TRAITS = Traits(
    order=50,
    about="sample solutions from a policy",
    distributed=True,
)


@dataclass
class Config:
    """Settings of the `sample` stage."""

    policy: Input  # model, or the output of an icl stage
    data: Input  # output of a prepare stage
    split: Literal["train", "validation", "test"] = "train"
    levels: list[int] | None = None  # only problems of these levels; all, those without a level too, if not given
    limit: int | None = None  # at most N problems
    decoding: Decoding = field(default_factory=Decoding)
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings, metadata={"added": True})
    # most problems between two savings; fewer where they would take much longer than a minute
    chunk: int = setting(256, affects_result=False)

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1")


def main(config: Config, run: StageRun) -> None:
    rank = join()
    problems = choose(read_problems(run.path(config.data), config.split), config.levels, config.limit)
    if not problems:
        raise ConfigError(
            f"{run.name}: no {config.split} problems of levels {config.levels}; check `levels` and prepare"
        )
    seed, policy = run.seed * 100_003, run.path(config.policy)
    texts, why = policy_format(policy, config.format)
    run.use_format(texts, why)
    parts = sample_bank(
        run, policy, problems, config.decoding, seed, rank, "sampling", config.chunk, text_format=config.format
    )
    if run.is_main:
        parts.spend(run.spend)
        rows = list(parts.rows())
        write_jsonl(run.out / SAMPLES, rows)
        save_format(texts.of_rows(), run.out)
        say_missing_answers(run, rows, texts)
        say_unfinished(run, rows, config.decoding.max_new_tokens)
        finished = sum(row["finished"] for row in rows) / len(rows)
        run.finish(problems=len(problems), solutions=len(rows), finished=finished)
