"""Score policies that write programs on the test set: strict accuracy (every test passes) and average accuracy.

Greedy decoding for every policy; best-of-n by reward models, the mean of one sample and pass@n from one sample bank,
exact over all subsets of it. Writes outcomes.jsonl (strict accuracy, for the report), programs.json and a table for the
report's page (both accuracies by difficulty), and quality.json (the reward models on the bank).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig

from reward_models.contract import StepContract
from reward_models.evaluation import compare
from reward_models.records import Stepwise, write_jsonl
from reward_models.score import StepScores
from reward_models.voting import pass_at_n
from rlhf_e2h.coding.measure import expected_best_of_n
from rlhf_e2h.coding.pool import ProgramPool
from rlhf_e2h.coding.sandbox import Limits
from rlhf_e2h.data.apps import LEVEL_OF, is_tests, program_of
from rlhf_e2h.data.firewall import Label, read_problems
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.records import OUTCOMES, read_samples, read_scored
from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input, NamedInputs, setting
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Decoding, Row, as_matrix, sample
from rlhf_e2h.training.models import open_policy
from rlhf_e2h.training.precision import sampling_dtype

VERSION = 1
TRAITS = Traits(
    order=150,
    about="score policies that write programs: strict and average accuracy",
    sealed_labels="evaluation",
)
BANDS = {name: (level,) for name, level in LEVEL_OF.items()} | {"all": tuple(LEVEL_OF.values())}
COLUMNS = ["policy", "decoding", "reward_model", "samples", *(f"{b} {k}" for b in BANDS for k in ("average", "strict"))]

Floats = NDArray[np.float64]


@dataclass
class Config:
    """Settings of the `programs` stage."""

    data: Input  # output of a prepare stage with `source: apps`
    policies: NamedInputs  # name in the tables -> policy, decoded greedily
    samples: Input | None = None  # the sample bank: output of a sample stage on the test split
    bank_policy: str = "sft_easy"  # name in the tables of the policy that sampled the bank
    rerank: Input | None = None  # output of a rerank stage on that bank
    reward_models: NamedInputs = field(default_factory=dict)  # the models of that rerank stage
    max_new_tokens: int = 512
    batch_size: int = setting(256)
    limits: Limits = field(default_factory=Limits)  # of one run of a program on one test
    workers: int = setting(0, affects_result=False)  # programs at once; 0: as many as cores

    def __post_init__(self) -> None:
        if self.reward_models and not (self.samples and self.rerank):
            raise ValueError("reward_models rank a sample bank; set samples and rerank")


@dataclass
class Measured:
    """One way of answering: strict and average accuracy of each problem, shape (P,)."""

    policy: str
    decoding: str
    reward_model: str | None
    labels: str
    samples: int
    strict: Floats
    average: Floats


def main(config: Config, run: StageRun) -> None:
    data = run.path(config.data)
    problems = {problem["problem_id"]: problem for problem in read_problems(data, "test")}
    labels = run.labels(data, "full", "evaluation", splits=("test",))
    if not labels or not all(is_tests(label.answer) for label in labels.values()):
        raise ConfigError(f"{run.name}: the test problems of {data} have no tests; prepare them with `source: apps`")
    with ProgramPool(config.workers, config.limits) as pool:
        measured = _greedy(config, run, problems, labels, pool)
        if config.samples:
            measured += _bank(config, run, problems, labels, pool)
    levels = [problem["level"] for problem in problems.values()]
    write_jsonl(run.out / OUTCOMES, [row for one in measured for row in _outcomes(one, list(problems), levels)])
    table = [_table_row(one, levels) for one in measured]
    write_json(run.out / "programs.json", table)
    paragraph = "Average accuracy is the share of tests passed, strict accuracy the share of problems with all passed."
    add_section(run.out, "programs", "Programs", paragraph, COLUMNS, table, open=True)
    run.finish(problems=len(problems), strict=table[0]["all strict"], average=table[0]["all average"])


def _greedy(
    config: Config, run: StageRun, problems: Mapping[str, Row], labels: Mapping[str, Label], pool: ProgramPool
) -> list[Measured]:
    decoding = Decoding(n=1, temperature=0.0, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    measured = []
    with run.progress(len(problems) * len(config.policies), "greedy", "programs") as bar:
        for name, reference in config.policies.items():
            path = run.path(reference)
            policy = open_policy(path, sampling_dtype(path), sections=True)
            rows = sample(policy, list(problems.values()), decoding, run.seed, bar.advance)
            strict_PK, average_PK = _tested(rows, list(problems), labels, pool)
            scope = run.label_scope(reference)
            measured.append(Measured(name, "greedy", None, scope, 1, strict_PK[:, 0], average_PK[:, 0]))
    return measured


def _tested(
    rows: Sequence[Row], order: Sequence[str], labels: Mapping[str, Label], pool: ProgramPool
) -> tuple[Floats, Floats]:
    """Strict and average accuracy of every sample, both (P, K), with the problems in `order`."""
    verdicts = pool.check((labels[row["problem_id"]].answer, program_of(row)) for row in rows)
    matrices = []
    for values in ([float(v.equal) for v in verdicts], [v.passed for v in verdicts]):
        ids, values_PK = as_matrix(rows, values, "the bank")
        place = {problem_id: index for index, problem_id in enumerate(ids)}
        matrices.append(values_PK[[place[problem_id] for problem_id in order]])
    return matrices[0], matrices[1]


def _bank(
    config: Config, run: StageRun, problems: Mapping[str, Row], labels: Mapping[str, Label], pool: ProgramPool
) -> list[Measured]:
    rows = read_samples(run.path(str(config.samples)), "finished")
    order = list(problems)
    strict_PK, average_PK = _tested(rows, order, labels, pool)
    count = strict_PK.shape[1]
    sizes = [2**power for power in range(count.bit_length()) if 2**power <= count]
    scope, name = run.label_scope(str(config.samples)), config.bank_policy
    measured = [Measured(name, "mean", None, scope, 1, strict_PK.mean(1), average_PK.mean(1))]
    # pass@n is about strict accuracy; the best share of tests among n is its counterpart
    for n in sizes:
        best_P = expected_best_of_n(average_PK, average_PK, n)
        measured.append(Measured(name, "pass_at_n", None, scope, n, pass_at_n(strict_PK, n), best_P))
    quality: dict[str, Any] = {}
    for model, reference in config.reward_models.items():
        scored = read_scored(run.path(str(config.rerank)), model)
        scores_PK = _scores(scored, order)
        scope = run.label_scope(str(config.samples), reference)
        for n in sizes:
            chosen = [expected_best_of_n(values, scores_PK, n) for values in (strict_PK, average_PK)]
            measured.append(Measured(name, "best_of_n", model, scope, n, *chosen))
        kind = StepContract.from_config(AutoConfig.from_pretrained(run.path(reference)), reference).kind
        quality[model] = _quality(kind, scored, problems, dict(zip(order, strict_PK, strict=True)))
    write_json(run.out / "quality.json", quality)
    return measured


def _scores(scored: Sequence[Row], order: Sequence[str]) -> Floats:
    """Reward-model score of every sample, (P, K); a text without a program comes last."""
    values = [row["score"] if program_of(row) is not None else -np.inf for row in scored]
    ids, scores_PK = as_matrix(scored, values, "the reranked bank")
    place = {problem_id: index for index, problem_id in enumerate(ids)}
    return scores_PK[[place[problem_id] for problem_id in order]]


def _quality(
    kind: str, scored: Sequence[Row], problems: Mapping[str, Row], strict: Mapping[str, Floats]
) -> dict[str, Any]:
    """AUC and calibration of one reward model on the bank, easy and hard."""
    found = {}
    for band, levels in (("easy", (1, 2, 3)), ("hard", (4, 5))):
        rows = [row for row in scored if problems[row["problem_id"]]["level"] in levels]
        records = [
            Stepwise(
                problems[row["problem_id"]]["problem"],
                SECTIONS.split_steps(row["text"]),
                None,
                int(strict[row["problem_id"]][row["sample_id"]]),
            )
            for row in rows
        ]
        if rows:
            scores = [StepScores(steps=row["step_scores"], score=row["score"]) for row in rows]
            found[band] = compare(records, scores, kind)
    return found


def _outcomes(one: Measured, order: Sequence[str], levels: Sequence[int | None]) -> list[Row]:
    fixed = {
        "policy": one.policy,
        "decoding": one.decoding,
        "reward_model": one.reward_model,
        "labels": one.labels,
        "samples": one.samples,
    }
    cells = zip(order, levels, one.strict, strict=True)
    return [{**fixed, "problem_id": p, "level": level, "correct": float(value)} for p, level, value in cells]


def _table_row(one: Measured, levels: Sequence[int | None]) -> Row:
    row: Row = {
        "policy": one.policy,
        "decoding": one.decoding,
        "reward_model": one.reward_model,
        "samples": one.samples,
    }
    for band, members in BANDS.items():
        chosen = [i for i, level in enumerate(levels) if level in members]
        for kind, values_P in (("average", one.average), ("strict", one.strict)):
            row[f"{band} {kind}"] = round(float(values_P[chosen].mean()), 6) if chosen else None
    return row
