"""What a sample bank says: accuracy of every decoding of it, and how good reward models are on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import AutoConfig

from reward_models.contract import StepContract
from reward_models.kinds import kind_of
from reward_models.records import Stepwise
from reward_models.score import StepScores
from reward_models.voting import curve
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.data import procedural
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.records import read_samples, read_scored
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.samples.bank import Row, aggregate_steps, as_matrix, grade
from rlhf_e2h.samples.evaluation_rows import outcome_rows, readable
from rlhf_e2h.samples.quality import easy_levels_of, length_warning, quality_by_group
from rlhf_e2h.text_formats import format_of


class Config(Protocol):
    """The settings of an `evaluate` stage that are about banks."""

    data: str
    samples: str | None
    bank_policy: str
    rerank: str | None
    reward_models: dict[str, str]
    judge: str | None
    sizes: list[int] | None
    draws: int
    best_of_n: str
    weighted_vote: str
    step_labels: Any


def voted_bank(
    config: Config, run: StageRun, policy: str, reference: str, problems: Mapping[str, Row], labels: Mapping[str, Label]
) -> list[Row]:
    """Outcome rows of the decodings of a bank that need no reward model."""
    rows = grade(read_samples(run.path(reference)), labels, progress=run.is_main)
    ids, classes_PK, correct_PK = _matrices(rows)
    curves = curve(classes_PK, correct_PK, **_draws(config, run))
    return list(_curve_rows(policy, curves, None, run.label_scope(reference), ids, problems))


def _matrices(rows: Sequence[Row]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Problem ids, classes of equal answers and verdicts of a bank, both (P, K)."""
    ids, correct_PK = as_matrix(rows, [row["correct"] for row in rows], "the bank")
    with CheckerPool() as pool:
        classes_PK = np.array([answer_classes(answers, pool) for answers in _answers(rows, len(ids))])
    return ids, classes_PK, correct_PK


def reranked_bank(
    config: Config, run: StageRun, samples: Path, problems: Mapping[str, Row], labels: Mapping[str, Label]
) -> tuple[list[Row], list[Row]]:
    """Outcome rows of every decoding of the bank, and solutions to read; writes quality.json."""
    rows, policy = grade(read_samples(samples), labels, progress=run.is_main), config.bank_policy
    text_format = format_of(samples)
    ids, classes_PK, correct_PK = _matrices(rows)
    scope = run.label_scope(str(config.samples))
    curves = curve(classes_PK, correct_PK, **_draws(config, run))
    outcomes = list(_curve_rows(policy, curves, None, scope, ids, problems))
    quality: dict[str, Any] = {}
    shown: list[Row] = []
    for name, reference in config.reward_models.items():
        scored = read_scored(run.path(str(config.rerank)), name)
        best_PK = as_matrix(rows, aggregate_steps(scored, config.best_of_n))[1]
        votes = aggregate_steps(scored, config.weighted_vote)
        vote_PK = as_matrix(rows, votes)[1]
        kind = StepContract.from_config(AutoConfig.from_pretrained(run.path(reference)), reference).kind
        if not kind_of(kind).steps:
            # An outcome model speaks at the last step; its scores at earlier steps are not judgements of those steps.
            best_PK = vote_PK = as_matrix(rows, aggregate_steps(scored, "last"))[1]
        elif said := length_warning(name, config.weighted_vote, votes, [len(row["step_scores"]) for row in scored]):
            run.warn(said)
        curves = curve(classes_PK, correct_PK, best_PK, vote_scores_PK=vote_PK, **_draws(config, run))
        wanted = {method: curves[method] for method in ("weighted_vote", "best_of_n")}
        outcomes += _curve_rows(policy, wanted, name, run.label_scope(str(config.samples), reference), ids, problems)
        quality[name] = _quality(config, run, kind, scored, rows, problems, text_format)
        if name == config.judge:
            both = [truth | row for truth, row in zip(rows, scored, strict=True)]
            shown = readable(both, problems, labels, policy, text_format)
    write_json(run.out / "quality.json", quality)
    return outcomes, shown


def _draws(config: Config, run: StageRun) -> dict[str, Any]:
    return {"sizes": config.sizes, "draws": config.draws, "seed": run.seed}


def _answers(rows: Sequence[Row], problems: int) -> Iterator[list[str | None]]:
    k = len(rows) // problems
    for start in range(0, len(rows), k):
        yield [row["answer"] for row in rows[start : start + k]]


def _curve_rows(
    policy: str, curves: Mapping[str, Mapping[int, Any]], reward_model: str | None, labels: str,
    ids: Sequence[str], problems: Mapping[str, Row],
) -> Iterator[Row]:  # fmt: skip
    by_id = [{"problem_id": problem_id} for problem_id in ids]
    for method, by_size in curves.items():
        for n, correct_P in by_size.items():
            yield from outcome_rows(by_id, correct_P, problems, policy, method, reward_model, labels, n)


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
