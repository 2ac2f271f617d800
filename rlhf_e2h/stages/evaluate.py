"""Score policies and decodings on the test set: the one place where hard labels meet results.

Greedy decoding for every policy; majority, weighted vote, best-of-n and pass@n from one sample bank, every method on
the same subsets of it. Writes outcomes.jsonl (a row for each method and problem), quality.json (the reward models on
the bank), policies.json (reward-model score beside accuracy, by level) and solutions.jsonl (to read). Decoding and
judging are sharded over the processes that were started together; one grades and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from reward_models.records import write_jsonl
from rlhf_e2h.data.firewall import Label, read_problems
from rlhf_e2h.data.levels import band
from rlhf_e2h.parallel.blocks import Parts
from rlhf_e2h.parallel.processes import join
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.records import OUTCOMES
from rlhf_e2h.rl.engine_settings import EngineSettings
from rlhf_e2h.runner.config import Input, NamedInputs, setting
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.answers import say_missing_answers, say_unfinished
from rlhf_e2h.samples.bank import Decoding, Row, grade
from rlhf_e2h.samples.bank_work import sample_bank, score_bank
from rlhf_e2h.samples.evaluation_bank import reranked_bank, voted_bank
from rlhf_e2h.samples.evaluation_rows import by_level, outcome_rows, readable
from rlhf_e2h.samples.quality import easy_levels_of
from rlhf_e2h.samples.unsplit import report_unsplit
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.models import policy_format

VERSION = 4
TRAITS = Traits(
    order=140,
    about="score policies and decodings on the test set",
    distributed=True,
    sealed_labels="evaluation",
    tiny={"draws": 8},
)


@dataclass
class Config:
    """Settings of the `evaluate` stage."""

    data: Input  # output of a prepare stage
    policies: NamedInputs  # name in the tables -> policy, decoded greedily
    samples: Input | None = None  # the sample bank: output of a sample stage on the test split
    bank_policy: str = "sft_easy"  # name in the tables of the policy that sampled the bank
    # policy -> its sample bank of the test split, for majority and pass@n alone (Table 1 has majorities of ICL)
    banks: NamedInputs = field(default_factory=dict, metadata={"added": True})
    rerank: Input | None = None  # output of a rerank stage on that bank
    reward_models: NamedInputs = field(default_factory=dict)  # the models of that rerank stage
    judge: str | None = None  # the reward model whose score is put beside accuracy, to see reward hacking
    sizes: list[int] | None = None  # n of the curves; 1, 2, 4, ... if not given
    draws: int = 64  # random subsets of the bank for each n below its size
    best_of_n: str = "min"  # aggregation of step scores for best-of-n (the paper: min)
    weighted_vote: str = "prod"  # and for weighted voting (the paper: prod)
    step_labels: Literal["procedural", "none"] = "none"  # how steps of the bank are checked, for reward-model quality
    max_new_tokens: int = 256
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings, metadata={"added": True})
    batch_size: int = setting(256)
    engine: EngineSettings = field(default_factory=EngineSettings, metadata={"added": True})  # what decodes

    def __post_init__(self) -> None:
        if not (self.policies or self.samples or self.banks):
            raise ValueError("policies, samples and banks are empty; name at least one policy, or a sample bank")


def main(config: Config, run: StageRun) -> None:
    data = run.path(config.data)
    problems = {problem["problem_id"]: problem for problem in read_problems(data, "test")}
    labels = run.labels(data, "full", "evaluation", splits=("test",))
    outcomes, solutions = _greedy(config, run, problems, labels)
    if not run.is_main:
        return
    if config.samples:
        bank_outcomes, shown = reranked_bank(config, run, run.path(config.samples), problems, labels)
        outcomes += bank_outcomes
        solutions += shown
    for policy, reference in config.banks.items():
        outcomes += voted_bank(config, run, policy, reference, problems, labels)
    write_jsonl(run.out / OUTCOMES, outcomes)
    write_jsonl(run.out / "solutions.jsonl", solutions)
    easy = easy_levels_of(data)
    bank_greedy = [o for o in outcomes if o["policy"] == config.bank_policy and o["decoding"] == "greedy"]
    hard = [o for o in bank_greedy if band(o["level"], easy) == "hard"]
    run.finish(
        outcomes=len(outcomes), **({"hard_greedy": float(np.mean([o["correct"] for o in hard]))} if hard else {})
    )


def _greedy(
    config: Config, run: StageRun, problems: Mapping[str, Row], labels: Mapping[str, Label]
) -> tuple[list[Row], list[Row]]:
    rank, asked = join(), list(problems.values())
    decoding = Decoding(
        n=1, temperature=0.0, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size, engine=config.engine
    )
    formats: dict[str, TextFormat] = {}
    for name, reference in config.policies.items():
        formats[name], why = policy_format(run.path(reference), config.format)
        run.use_format(formats[name], f"{name}: {why}")
    # first all policies, then the judge: no two models are in memory at once
    sampled = {
        name: sample_bank(
            run, run.path(reference), asked, decoding, run.seed, rank, f"greedy {name}", text_format=config.format
        )
        for name, reference in config.policies.items()
    }
    if config.judge:
        rows = list(_named(sampled))
        model = run.path(config.reward_models[config.judge])
        report_unsplit(run, rows, [model])
        judged = score_bank(
            run,
            rows,
            problems,
            model,
            rank,
            "judging",
            config.judge,
            text_format=lambda row: formats[row["policy"]].of_rows(),
        )
    if not run.is_main:
        return [], []
    by_name: dict[str, list[Row]] = {
        name: [] if config.judge else list(parts.rows()) for name, parts in sampled.items()
    }
    for row in judged.rows() if config.judge else ():
        by_name[row.pop("policy")].append(row)
    outcomes: list[Row] = []
    solutions: list[Row] = []
    by_policy: dict[str, Any] = {}
    cost: dict[str, tuple[float, float]] = {}
    for name, reference in config.policies.items():
        cost[name] = sampled[name].cost()
        run.spend(*cost[name])
        rows, scope = grade(by_name[name], labels), run.label_scope(reference)
        say_missing_answers(run, rows, formats[name], name)
        say_unfinished(run, rows, config.max_new_tokens, name)
        texts = formats[name].of_rows()
        outcomes += outcome_rows(rows, [row["correct"] for row in rows], problems, name, "greedy", None, scope, 1)
        if config.judge:
            solutions += readable(rows, problems, labels, name, texts)
        by_policy[name] = by_level(rows, problems, texts)
    run.finish(problems=len(problems), greedy_cost=cost)
    write_json(run.out / "policies.json", {"judge": config.judge, "policies": by_policy})
    return outcomes, solutions


def _named(sampled: Mapping[str, Parts]) -> Iterator[Row]:
    for name, parts in sampled.items():
        yield from ({**row, "policy": name} for row in parts.rows())
