"""Optimise a policy with ReST-EM: sample, keep the good solutions, fine-tune on them, repeat.

Easy problems are filtered by the checker, hard ones, whose labels nobody reads, by the reward model: a hard solution is
kept if its answer wins the weighted vote and its own score reaches `threshold`. Singh et al. 2024 (arXiv 2312.06585);
Sun et al. 2024, appendix C.3. Writes a model folder and kept_ROUND.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from reward_models.records import write_jsonl
from rlhf_e2h.bank import Decoding, Row, sample
from rlhf_e2h.config import ConfigError, Input
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.judge import by_problem, judged, summary, vote
from rlhf_e2h.models import LoraSettings, Policy, open_policy, save_policy
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runs import StageRun
from rlhf_e2h.stages.dpo import _round
from rlhf_e2h.stages.sample import choose
from rlhf_e2h.stages.sft import finetune
from rlhf_e2h.training import TrainingSettings

VERSION = 1


@dataclass
class Config:
    """Settings of the `rest` stage."""

    policy: Input  # model that samples first
    data: Input  # output of a prepare stage
    reward_model: Input
    aggregation: str = "prod"  # of step scores; the paper weighs votes by the product
    threshold: float = 0.5  # least score of a kept solution whose problem has no readable label
    levels: list[int] | None = None  # prompts of these levels; all if not given
    problems: int | None = None  # at most so many prompts a round
    rounds: int = 2
    max_kept: int = 10  # solutions a problem
    start_from: Literal["previous", "first"] = (
        "previous"  # weights a round fine-tunes: last round's, or the first policy's
    )
    decoding: Decoding = field(default_factory=lambda: Decoding(n=32))
    lora: LoraSettings = field(default_factory=LoraSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


def main(config: Config, run: StageRun) -> None:
    policy = open_policy(run.path(config.policy))
    data = run.path(config.data)
    labels = run.labels(data, "easy", splits=("train",))
    pool = choose(read_problems(data, "train"), config.levels, None)
    for number in range(config.rounds):
        problems = _round(pool, config.problems, number)
        with run.progress(len(problems) * config.decoding.n, f"ReST {number + 1}: sampling", "solutions") as bar:
            rows = sample(policy, problems, config.decoding, run.seed * 1013 + number, bar.advance)
        known = {problem["problem_id"]: problem for problem in problems}
        rows = judged(rows, known, labels, run.path(config.reward_model), config.aggregation)
        kept = [row for group in by_problem(rows).values() for row in keep(group, config.threshold)[: config.max_kept]]
        if not kept:
            raise ConfigError(f"{run.name}: round {number + 1} keeps no solution; lower threshold or sample more")
        write_jsonl(run.out / f"kept_{number}.jsonl", kept)
        run.log({**summary(rows), "rest/kept": len(kept)}, step=number)
        if config.start_from == "first" and number:
            policy = open_policy(run.path(config.policy))
        texts = [_text(row, known) for row in kept]
        model, _ = finetune(
            policy.model, policy.tokenizer, texts, config.training, config.lora, run, f"ReST {number + 1}"
        )
        policy = Policy(model, policy.tokenizer)
    save_policy(policy.model, policy.tokenizer, run.out)
    run.finish(kept=len(kept), rounds=config.rounds)


def keep(group: list[Row], threshold: float) -> list[Row]:
    """The solutions of one problem to learn from, each text once: right ones, or those the reward model trusts."""
    if group[0]["correct"] is not None:
        good = [row for row in group if row["correct"]]
    else:
        winners = vote(group)
        good = [row for index, row in enumerate(group) if index in winners and row["rm"] >= threshold]
        good.sort(key=lambda row: -row["rm"])
    return list({row["text"]: row for row in good if row["finished"]}.values())


def _text(row: Row, problems: dict[str, Row]) -> dict[str, Any]:
    return {"prompt": SECTIONS.prompt(problems[row["problem_id"]]["problem"]), "completion": row["text"]}
