"""Learn a skill graph (Skill-It, arXiv 2307.14430, section 3): which skills help which, from short fine-tuning runs.

i helps j where training on {i, j} leaves a lower loss on j than training on j alone, at equal steps. For K skills that
is K + K (K - 1) / 2 runs a repeat, so keep them short. Writes graph.json ({skill: skills it helps}, for `skill_graph`
of an sft stage), graph.npy (0/1 matrix in the format of the public code) and a section for the report.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.report.section import add_section
from rlhf_e2h.report.svg import new_figure
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.items import completion_logprobs, mean_logprobs
from rlhf_e2h.training.mixing import Skill, skill_of
from rlhf_e2h.training.mixtures import learned_graph
from rlhf_e2h.training.models import open_policy

VERSION = 2
TRAITS = Traits(
    order=200,
    about="learn which skills help which, from short fine-tuning runs",
    trains=True,
)
Rows = list[dict[str, str]]


@dataclass
class Config:
    """Settings of the `skillgraph` stage."""

    policy: Input  # model that every run starts from
    data: Input  # output of a prepare stage
    labels: Literal["easy", "full"] = "easy"  # whose solutions; full only in a stage with 'full' in its name
    skill: Skill = "level"
    steps: int = 50  # of each run
    batch_size: int = 16
    learning_rate: float = 1e-4
    items: int = 32  # solutions of each skill kept to measure its loss
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings, metadata={"added": True})
    repeats: int = 2  # an edge must hold in each
    least: float = 0.0  # least relative fall of the loss, in the mean of the repeats

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.items, self.repeats) < 1:
            raise ValueError("steps, batch_size, items and repeats must be at least 1")


def main(config: Config, run: StageRun) -> None:
    policy = open_policy(run.path(config.policy), text_format=config.format, sections=True)
    run.use_format(policy.text_format, policy.why)
    train, held = _rows(config, run, policy.text_format)
    order = sorted(train)
    skills = len(order)
    alone_KS = np.zeros((skills, config.repeats))
    together_KKS = np.zeros((skills, skills, config.repeats))
    runs = [*[(i,) for i in range(skills)], *combinations(range(skills), 2)]
    with run.progress(len(runs) * config.repeats * config.steps, "skill graph", "steps") as bar:
        for repeat in range(config.repeats):
            for members in runs:
                rng = np.random.default_rng([run.seed, repeat, *members])
                model = copy.deepcopy(policy.model)
                _train(model, policy.tokenizer, [train[order[i]] for i in members], config, rng, bar.advance)
                for j in members:
                    loss = -float(np.mean(mean_logprobs(model, policy.tokenizer, held[order[j]])))
                    if len(members) == 1:
                        alone_KS[j, repeat] = loss
                    else:
                        together_KKS[members[0] if j == members[1] else members[1], j, repeat] = loss
    edges_KK, gains_KK = learned_graph(alone_KS, together_KKS, config.least)
    graph = {name: [order[j] for j in range(skills) if edges_KK[i, j] and i != j] for i, name in enumerate(order)}
    write_json(run.out / "graph.json", graph)
    np.save(run.out / "graph.npy", edges_KK)
    table = [
        {"helper": order[i], "skill": order[j], "fall_of_loss": float(gains_KK[i, j]),
         "edge": int(edges_KK[i, j]), "loss_alone": float(alone_KS[j].mean())}
        for i in range(skills) for j in range(skills) if i != j
    ]  # fmt: skip
    found = [f"{row['helper']} helps {row['skill']} ({row['fall_of_loss']:+.1%})" for row in table if row["edge"]]
    paragraph = "; ".join(found) + "." if found else "No skill helps another."
    add_section(
        run.out, "skill_graph", f"Skill graph: {run.name}", paragraph,
        ("helper", "skill", "fall_of_loss", "edge", "loss_alone"), table,
        lambda: _figure(order, gains_KK), "How much lower the loss on a skill is when half the batch is another skill.",
    )  # fmt: skip
    run.finish(skills=skills, edges=len(found))


def _rows(config: Config, run: StageRun, texts: TextFormat) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Solutions of each skill to train on, and those kept to measure it."""
    data = run.path(config.data)
    labels = run.labels(data, config.labels, splits=("train",))
    groups: dict[str, Rows] = {}
    for problem in read_problems(data, "train"):
        if problem["problem_id"] in labels and labels[problem["problem_id"]].solution:
            row = texts.row(problem["problem"], texts.exemplar(labels[problem["problem_id"]].solution))
            groups.setdefault(skill_of(problem, config.skill), []).append(row)
    short = [name for name, rows in groups.items() if len(rows) <= config.items]
    if short or len(groups) < 2:
        what = f"skill {short[0]!r} has {len(groups[short[0]])} solutions" if short else f"{len(groups)} skills found"
        raise ConfigError(f"{run.name}: {what}; a graph needs two skills with more than items = {config.items} each")
    return {k: v[: -config.items] for k, v in groups.items()}, {k: v[-config.items :] for k, v in groups.items()}


def _train(
    model: Any, tokenizer: Any, groups: Sequence[Rows], config: Config, rng: np.random.Generator,
    on_step: Callable[[int], None],
) -> None:  # fmt: skip
    """Plain fine-tuning on batches that hold the groups in equal shares."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    model.train()
    for _ in range(config.steps):
        rows = [
            groups[k % len(groups)][int(rng.integers(len(groups[k % len(groups)])))] for k in range(config.batch_size)
        ]
        loss = -torch.stack(completion_logprobs(model, tokenizer, rows)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        on_step(1)


def _figure(order: Sequence[str], gains_KK: NDArray[np.float64]) -> Any:
    figure, axes = new_figure(4.6, 3.8)
    limit = max(0.01, float(np.abs(gains_KK).max()))
    image = axes.imshow(gains_KK, cmap="PuOr_r", vmin=-limit, vmax=limit)
    axes.set_xticks(range(len(order)), order)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel("skill measured")
    axes.set_ylabel("trained beside it")
    axes.grid(False)
    for i in range(len(order)):
        for j in range(len(order)):
            if i != j:
                axes.text(j, i, f"{gains_KK[i, j]:+.0%}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=axes, label="fall of the loss")
    return figure
