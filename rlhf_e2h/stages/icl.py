"""An in-context baseline: a base model with solved exemplars before every problem.

Reads labels of a `prepare` stage, or a file of exemplars. Writes a policy folder without weights: the model's place and
the text before every prompt. `evaluate` decodes it greedily, `sample` samples from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from reward_models.records import read_jsonl
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.prompts import few_shot
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.places import name_of
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.text_formats import FormatSettings, build_format, to_dict
from rlhf_e2h.training.models import CONTEXT_FILE, policy_tokenizer

VERSION = 2
TRAITS = Traits(
    order=40,
    about="make an in-context baseline from solved exemplars",
    trains=True,
    runs_model=False,
)


@dataclass
class Config:
    """Settings of the `icl` stage."""

    policy: Input  # model that reads the exemplars
    data: Input  # output of a prepare stage
    labels: Literal["easy", "full", "hard"] = "easy"  # where exemplars come from
    # in place of labels: JSON Lines with problem and solution (in sections), taken in order
    exemplars: Input | None = field(default=None, metadata={"added": True})
    # text of exemplars and prompts: sections, Minerva's, or chat, where exemplars are turns before the problem
    format: FormatSettings = field(default_factory=lambda: FormatSettings("sections"), metadata={"added": True})
    shots: int = 4
    between: Literal["eos", "blank"] = "eos"  # what ends an exemplar; a base model trained on packed texts knows eos
    max_characters: int = 1500  # longer exemplars are skipped


def main(config: Config, run: StageRun) -> None:
    data, model = run.path(config.data), run.path(config.policy)
    solved = _solved(config, run, data)
    short = [pair for pair in solved if sum(map(len, pair)) <= config.max_characters]
    if len(short) < config.shots:
        raise ConfigError(
            f"{run.name}: {len(short)} exemplars of at most {config.max_characters} characters, {config.shots} needed; "
            "raise max_characters or lower shots"
        )
    if not config.exemplars:  # a file has its own order
        short = [short[i] for i in np.random.default_rng(run.seed).permutation(len(short))]
    exemplars = short[: config.shots]
    tokenizer = policy_tokenizer(model)
    settings = FormatSettings("sections") if config.format.name == "auto" else config.format
    texts = build_format(settings, tokenizer, str(model), exemplars)
    end = tokenizer.eos_token if config.between == "eos" else "\n\n"
    prefix = "" if texts.name == "chat" else few_shot(exemplars, end, texts)
    run.use_format(texts, "that of the exemplars")
    place = name_of(model, run.out, run.run_folder)
    write_json(run.out / CONTEXT_FILE, {"model": place, "prefix": prefix, "format": to_dict(texts)})
    run.finish(exemplars=len(exemplars), characters=len(texts.template) if texts.name == "chat" else len(prefix))


def _solved(config: Config, run: StageRun, data: Path) -> list[tuple[str, str]]:
    """(problem, solution in sections) pairs to choose exemplars from."""
    if config.exemplars:
        rows = read_jsonl(run.path(config.exemplars), required=("problem", "solution"))
        return [(row["problem"], row["solution"]) for row in rows]
    labels = run.labels(data, config.labels, splits=("train",))
    return [
        (problem["problem"], labels[problem["problem_id"]].solution)
        for problem in read_problems(data, "train")
        if problem["problem_id"] in labels and labels[problem["problem_id"]].solution
    ]
