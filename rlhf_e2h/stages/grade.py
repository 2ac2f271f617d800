"""Check samples against labels with the answer checker. Reads samples.jsonl and labels; writes graded.jsonl.

For training only easy labels are opened, and samples of other problems are left out; `purpose: evaluation` opens all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from reward_models.records import write_jsonl
from rlhf_e2h.records import GRADED, read_samples
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.answers import say_missing_answers
from rlhf_e2h.samples.bank import grade
from rlhf_e2h.text_formats import format_of, save_format

VERSION = 2
TRAITS = Traits(
    order=60,
    about="check samples against labels",
    runs_model=False,
    sealed_labels="named",
)


@dataclass
class Config:
    """Settings of the `grade` stage."""

    samples: Input  # output of a sample stage
    data: Input  # output of a prepare stage
    # full: for evaluation, or in a baseline with 'full' in its name; hard: with 'hardonly'
    labels: Literal["easy", "full", "hard"] = "easy"
    purpose: Literal["training", "evaluation"] = "training"


def main(config: Config, run: StageRun) -> None:
    rows = read_samples(run.path(config.samples), "sample_id", "answer")
    labels = run.labels(run.path(config.data), config.labels, config.purpose)
    graded = grade(rows, labels, progress=run.is_main)
    if not graded:
        raise ConfigError(
            f"{run.name}: none of the {len(rows)} samples belongs to a problem with {config.labels} labels"
        )
    write_jsonl(run.out / GRADED, graded)
    text_format = format_of(run.path(config.samples))
    save_format(text_format, run.out)
    say_missing_answers(run, graded, text_format)
    run.log({f"reasons/{reason}": count for reason, count in Counter(r["reason"] for r in graded).items()})
    run.finish(
        graded=len(graded), unlabelled=len(rows) - len(graded), correct=sum(r["correct"] for r in graded) / len(graded)
    )
