"""What a `reward` stage learns from: graded samples, step labels, written solutions; and what was left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reward_models.formats import balance, read_records
from reward_models.kinds import kind_of
from reward_models.records import Stepwise
from rlhf_e2h.data import procedural
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.records import Row, read_graded
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.runs import StageRun

Kind = TypeVar("Kind")


@dataclass
class Found:
    """Records, and the number of samples that gave none, by reason."""

    records: list[Stepwise] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)


def gather(config: Any, run: StageRun, problems: dict[str, str], texts: TextFormat = SECTIONS) -> Found:
    """All records that the settings of a `reward` stage name; `problems` are texts by id.

    Raises:
        ConfigError: there are none; says why.
    """
    found = Found()
    if config.graded:
        rows = read_graded(run.path(config.graded))
        kept = outcome_rows(config, rows, found.lost)
        if rows and not kept:
            raise ConfigError(f"{run.name}: {_why_none(rows, config.balance)}")
        found.records += [_labelled(row, problems[row["problem_id"]], config.step_labels, texts) for row in kept]
    if config.records:
        found.records += read_records(run.path(config.records))
    if config.reference_solutions:
        found.records += _reference_records(run, run.path(config.data), problems, texts)
    if not found.records:
        raise ConfigError(f"{run.name}: nothing to train on; set `graded`, `records` or `reference_solutions`")
    return found


def _why_none(rows: list[Row], ratio: float) -> str:
    finished = [row for row in rows if row["finished"]]
    right = sum(bool(row["correct"]) for row in finished)
    if not finished:
        return f"none of the {len(rows)} graded samples is finished; raise decoding.max_new_tokens of the sample stage"
    found = f"{right} of {len(finished)} finished samples are right"
    if right in (0, len(finished)):
        return (
            f"{found}, so there is nothing to tell apart; sample more a problem (decoding.n), hotter, or "
            f"{'harder' if right else 'easier'} problems. (If answers look right, check `answer` in samples.jsonl)"
        )
    return (
        f"{found}, but no problem has both right and wrong ones, and balance {ratio:g} keeps only such problems; "
        "sample more a problem (decoding.n)"
    )


def outcome_rows(config: Any, rows: list[Row], lost: dict[str, int] | None = None) -> list[Row]:
    """The graded samples to learn from: finished, each text once a problem, balanced where the settings say so.

    The same text again says nothing new, and right solutions repeat most. `lost` gets the numbers left out.
    """
    finished = [row for row in rows if row["finished"]]
    distinct = list({(row["problem_id"], row["text"]): row for row in finished}.values())
    balances = config.balance_outcomes or not kind_of(config.kind).steps
    kept = distinct
    if balances:
        kept = balance(distinct, config.balance, lambda row: (row["problem_id"], row["correct"]))
    if lost is not None:
        lost["unfinished"] = len(rows) - len(finished)
        lost["repeated"] = len(finished) - len(distinct)
        lost["unbalanced"] = len(distinct) - len(kept)
    return kept


def _labelled(row: Row, problem: str, source: str, texts: TextFormat) -> Stepwise:
    steps = texts.split_steps(row["text"])
    outcome = int(row["correct"])
    labels: list[int | None] | None = None
    if source == "procedural":
        labels = list(procedural.step_labels(problem, steps))
    elif source == "outcome":
        labels = [1] * len(steps) if outcome else [None] * (len(steps) - 1) + [0]
    return Stepwise(problem, steps, labels, outcome, {k: row[k] for k in ("problem_id", "sample_id") if k in row})


def _reference_records(run: StageRun, data: Path, problems: dict[str, str], texts: TextFormat) -> list[Stepwise]:
    labels = run.labels(data, "easy", splits=("train",))
    known = {key: texts.exemplar(label.solution) for key, label in labels.items() if label.solution}
    found = [(problems[key], texts.split_steps(solution)) for key, solution in known.items()]
    return [Stepwise(problem, steps, [1] * len(steps), 1) for problem, steps in found]


def held_out(problem: str, share: float) -> bool:
    """Whether a problem is kept for validation: by its name or text, so that all models of a run keep out the same."""
    return int(hashlib.sha256(problem.encode()).hexdigest()[:8], 16) < share * 2**32


def at_most(records: list[Kind], limit: int | None, seed: int) -> list[Kind]:
    """`limit` of the records at random, in their order; all of them without a limit."""
    if limit is None or limit >= len(records):
        return records
    chosen = np.random.default_rng(seed).permutation(len(records))[:limit]
    return [records[index] for index in sorted(chosen.tolist())]


def thinned(records: list[Stepwise], ratio: float, seed: int) -> list[Stepwise]:
    """All records with a step labelled wrong, and at random at most `ratio` times as many of the others, in order.

    What a process reward model learns from is wrong steps; where most solutions are faultless they drown.
    """
    faulty = [0 in (record.labels or []) for record in records]
    others = np.flatnonzero(~np.array(faulty, dtype=bool))
    chosen = np.random.default_rng(seed).permutation(others)[: int(ratio * sum(faulty))]
    keep = {*np.flatnonzero(faulty).tolist(), *chosen.tolist()}
    return [record for index, record in enumerate(records) if index in keep]
