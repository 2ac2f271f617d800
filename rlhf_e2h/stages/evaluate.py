"""Score policies and decodings on the test set: the one place where hard labels meet results.

Greedy decoding for every policy; majority, weighted vote, best-of-n and pass@n from one sample bank, every method on
the same subsets of it. Writes outcomes.jsonl (a row for each method and problem), quality.json (the reward models on
the bank), policies.json (reward-model score beside accuracy, by level) and solutions.jsonl (to read). Decoding and
judging are sharded over the processes that were started together; one grades and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoConfig

from reward_models.contract import StepContract
from reward_models.records import Stepwise, read_jsonl, write_jsonl
from reward_models.score import StepScores
from reward_models.voting import curve
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.data import procedural
from rlhf_e2h.data.firewall import Label, read_problems
from rlhf_e2h.data.levels import band
from rlhf_e2h.parallel.blocks import Parts
from rlhf_e2h.parallel.processes import join
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.records import OUTCOMES, SAMPLES, scored_file
from rlhf_e2h.report.solutions import readable_rows
from rlhf_e2h.rl.engine_settings import EngineSettings
from rlhf_e2h.runner.config import Input, NamedInputs, setting
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.answers import say_missing_answers
from rlhf_e2h.samples.bank import Decoding, Row, aggregate_steps, as_matrix, grade
from rlhf_e2h.samples.bank_work import sample_bank, score_bank
from rlhf_e2h.samples.quality import easy_levels_of, quality_by_group
from rlhf_e2h.samples.unsplit import report_unsplit
from rlhf_e2h.text_formats import FormatSettings, format_of
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
        if not self.policies and not self.samples:
            raise ValueError("policies and samples are empty; name at least one policy, or a sample bank")


def main(config: Config, run: StageRun) -> None:
    data = run.path(config.data)
    problems = {problem["problem_id"]: problem for problem in read_problems(data, "test")}
    labels = run.labels(data, "full", "evaluation", splits=("test",))
    outcomes, solutions = _greedy(config, run, problems, labels)
    if not run.is_main:
        return
    if config.samples:
        bank_outcomes, shown = _bank(config, run, run.path(config.samples), problems, labels)
        outcomes += bank_outcomes
        solutions += shown
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
        texts = formats[name].of_rows()
        outcomes += _outcomes(rows, [row["correct"] for row in rows], problems, name, "greedy", None, scope, 1)
        if config.judge:
            solutions += readable_rows(rows, problems, labels, name, texts)
        by_policy[name] = _by_level(rows, problems, texts)
    run.finish(problems=len(problems), greedy_cost=cost)
    write_json(run.out / "policies.json", {"judge": config.judge, "policies": by_policy})
    return outcomes, solutions


def _named(sampled: Mapping[str, Parts]) -> Iterator[Row]:
    for name, parts in sampled.items():
        yield from ({**row, "policy": name} for row in parts.rows())


def _outcomes(
    rows: Sequence[Row], correct: Sequence[float], problems: Mapping[str, Row], policy: str, decoding: str,
    reward_model: str | None, labels: str, samples: int,
) -> list[Row]:  # fmt: skip
    fixed = {"policy": policy, "decoding": decoding, "reward_model": reward_model, "labels": labels, "samples": samples}
    return [
        {
            **fixed,
            "problem_id": row["problem_id"],
            "level": problems[row["problem_id"]]["level"],
            "correct": float(value),
        }
        for row, value in zip(rows, correct, strict=True)
    ]


def _by_level(rows: Sequence[Row], problems: Mapping[str, Row], text_format: TextFormat) -> dict[str, dict[str, float]]:
    """Accuracy, reward-model score, steps and share of unfinished solutions, by level."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(problems[row["problem_id"]]["level"]), []).append(row)
    return {
        level: {
            "n": len(group),
            "accuracy": float(np.mean([row["correct"] for row in group])),
            "unfinished": float(np.mean([not row["finished"] for row in group])),
            "steps": float(np.mean([len(text_format.split_steps(row["text"])) for row in group])),
            **({"reward": float(np.mean([row["score"] for row in group]))} if "score" in group[0] else {}),
        }
        for level, group in sorted(groups.items())
    }


def _bank(
    config: Config, run: StageRun, samples: Path, problems: Mapping[str, Row], labels: Mapping[str, Label]
) -> tuple[list[Row], list[Row]]:
    rows = grade(read_jsonl(samples / SAMPLES), labels, progress=run.is_main)
    text_format = format_of(samples)
    ids, correct_PK = as_matrix(rows, [row["correct"] for row in rows], "the bank")
    with CheckerPool() as pool:
        classes_PK = np.array([answer_classes(answers, pool) for answers in _answers(rows, len(ids))])
    scope = run.label_scope(str(config.samples))
    outcomes = list(
        _curve_rows(config, curve(classes_PK, correct_PK, **_draws(config, run)), None, scope, ids, problems)
    )
    quality: dict[str, Any] = {}
    shown: list[Row] = []
    for name, reference in config.reward_models.items():
        scored = read_jsonl(run.path(str(config.rerank)) / scored_file(name))
        best_PK = as_matrix(rows, aggregate_steps(scored, config.best_of_n))[1]
        vote_PK = as_matrix(rows, aggregate_steps(scored, config.weighted_vote))[1]
        kind = StepContract.from_config(AutoConfig.from_pretrained(run.path(reference)), reference).kind
        if kind == "orm":
            # An outcome model speaks at the last step; its scores at earlier steps are not judgements of those steps.
            best_PK = vote_PK = as_matrix(rows, aggregate_steps(scored, "last"))[1]
        curves = curve(classes_PK, correct_PK, best_PK, vote_scores_PK=vote_PK, **_draws(config, run))
        wanted = {method: curves[method] for method in ("weighted_vote", "best_of_n")}
        outcomes += _curve_rows(config, wanted, name, run.label_scope(str(config.samples), reference), ids, problems)
        quality[name] = _quality(config, run, kind, scored, rows, problems, text_format)
        if name == config.judge:
            both = [truth | row for truth, row in zip(rows, scored, strict=True)]
            shown = readable_rows(both, problems, labels, config.bank_policy, text_format)
    write_json(run.out / "quality.json", quality)
    return outcomes, shown


def _draws(config: Config, run: StageRun) -> dict[str, Any]:
    return {"sizes": config.sizes, "draws": config.draws, "seed": run.seed}


def _answers(rows: Sequence[Row], problems: int) -> Iterator[list[str | None]]:
    k = len(rows) // problems
    for start in range(0, len(rows), k):
        yield [row["answer"] for row in rows[start : start + k]]


def _curve_rows(
    config: Config, curves: Mapping[str, Mapping[int, Any]], reward_model: str | None, labels: str,
    ids: Sequence[str], problems: Mapping[str, Row],
) -> Iterator[Row]:  # fmt: skip
    by_id = [{"problem_id": problem_id} for problem_id in ids]
    for method, by_size in curves.items():
        for n, correct_P in by_size.items():
            yield from _outcomes(by_id, correct_P, problems, config.bank_policy, method, reward_model, labels, n)


def _quality(
    config: Config,
    run: StageRun,
    kind: str,
    scored: Sequence[Row],
    graded: Sequence[Row],
    problems: Mapping[str, Row],
    text_format: TextFormat,
) -> dict[str, dict[str, Any]]:
    """AUCs, calibration and first-error F1 of one reward model on the bank, with intervals, by band and level."""
    records, scores, levels = [], [], []
    for row, truth in zip(scored, graded, strict=True):
        problem = problems[row["problem_id"]]
        steps = text_format.split_steps(row["text"])
        labels = procedural.step_labels(problem["problem"], steps) if config.step_labels == "procedural" else None
        records.append(Stepwise(problem["problem"], steps, list(labels) if labels else None, int(truth["correct"])))
        scores.append(StepScores(steps=row["step_scores"], score=row["score"]))
        levels.append(problem["level"])
    ids = [row["problem_id"] for row in scored]
    return quality_by_group(records, scores, kind, ids, levels, easy_levels_of(run.path(config.data)))
