"""Weak-to-strong: a weak supervisor labels hard items softly, students learn from those labels, a ceiling from truth.

Reads graded easy samples (what the supervisor may know), samples of hard problems, and a bank of test samples. Writes
scores.jsonl (each model's score of each test sample), predictions.jsonl (soft labels), filters.json, and the weights.
With `step_labels` all of them label and learn single steps (process models); a sample scores as its worst step.
With `supervision: truth`, in a stage whose name says so, the only model is the ceiling. `compare` makes the tables.

Burns et al. 2023 (arXiv 2312.09390); EleutherAI, "Experiments in Weak-to-Strong Generalization".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_models.aggregate import aggregate
from reward_models.encode import encode
from reward_models.kinds import kind_of
from reward_models.model import load_tokenizer
from reward_models.records import write_jsonl
from rlhf_e2h.data import procedural
from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.data.levels import EASY
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.records import Row, read_graded, read_samples
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.features import token_features
from rlhf_e2h.studies.weak_to_strong.probe_labels import ProbeSettings, probe_predictions, probed
from rlhf_e2h.studies.weak_to_strong.results import SCORES
from rlhf_e2h.studies.weak_to_strong.soft_rows import Item, Labels
from rlhf_e2h.studies.weak_to_strong.students import FitSettings, LossSettings, fit_soft, judge, predict, soft_contract
from rlhf_e2h.text_formats import format_of
from rlhf_e2h.training.reward_records import at_most, held_out

VERSION = 6
TRAITS = Traits(
    order=240,
    about="train students on a weak supervisor's soft labels of hard problems",
    trains=True,
)
PREDICTIONS = "predictions.jsonl"


@dataclass
class Student:
    """One way to learn from the weak labels."""

    loss: LossSettings = field(default_factory=LossSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    rounds: int = 0  # strong-to-strong: so often the student relabels the items and a fresh copy learns from it


@dataclass
class Config:
    """Settings of the `weak_to_strong` stage."""

    data: Input  # output of a prepare stage
    base: Input  # the strong model, before any training
    transfer: Input  # samples of hard problems (a sample stage; with supervision: truth a grade stage)
    bank: Input  # samples of the test set
    easy: Input | None = None  # graded samples of easy problems: what the supervisor learns from
    supervision: Literal["weak", "truth"] = "weak"  # truth: the ceiling, which reads hard labels
    weak_base: Input | None = None  # the supervisor's model; the strong one if not given
    weak_layers: int = 0  # keep only its first N layers: a small model without a download; 0: all
    levels: list[int] = field(default_factory=lambda: [4, 5])  # of the items that the student learns from
    step_labels: Literal["none", "procedural"] = "none"  # procedural: everybody labels and learns steps, not outcomes
    limit: int | None = None  # at most N solutions, for the supervisor and for the students
    # the supervisor's own budget of labelled solutions; `limit` if not given
    weak_limit: int | None = field(default=None, metadata={"added": True})
    students: dict[str, Student] = field(default_factory=lambda: {"xent": Student()})
    layers: Literal["middle", "last", "hase"] = "middle"  # hidden states that probes read
    template: str | None = None  # text before a solution, with {problem}; the policy's prompt if not given
    weak_fit: FitSettings = field(default_factory=FitSettings)
    fit: FitSettings = field(default_factory=FitSettings)  # of students and ceiling

    def __post_init__(self) -> None:
        if self.supervision == "weak" and not self.easy:
            raise ValueError("supervision: weak needs `easy`, graded samples of easy problems")
        if set(self.levels) & set(EASY) and self.supervision == "weak" and not self.weak_layers and not self.weak_base:
            raise ValueError(f"levels {self.levels} overlap with what the supervisor learnt from; give hard levels")
        clash = {"weak", "ceiling"} & set(self.students)
        if clash or not self.students:
            raise ValueError(f"students {sorted(self.students)}: give at least one, none called weak or ceiling")


@dataclass(frozen=True)
class Task:
    """Everything that is learnt from or scored, in the order of the files."""

    problems: Mapping[str, Row]
    transfer: list[Row]
    bank: list[Row]
    train: NDArray[np.bool_]  # (N,) transfer rows to learn from; the others choose checkpoints
    texts: TextFormat  # of all samples

    def items(self, rows: Sequence[Row]) -> list[Item]:
        return [(self.problems[row["problem_id"]]["problem"], self.texts.split_steps(row["text"])) for row in rows]


def main(config: Config, run: StageRun) -> None:
    task = _task(config, run)
    scores: dict[str, NDArray[np.floating]] = {}
    if config.supervision == "truth":
        labels = _truth(config, task, task.transfer)
        scores["ceiling"] = _learn(config, run, task, "ceiling", labels, Student())
        _finish(config, run, task, scores, labels, {})
        return
    scores["weak"], weak = _supervise(config, run, task)
    features = _Features(config, run, task)
    about = {}
    for name, student in config.students.items():
        scores[name], about[name] = _follow(config, run, task, name, weak, student, features)
    _finish(config, run, task, scores, weak, about)


def _truth(config: Config, task: Task, rows: Sequence[Row]) -> Labels:
    if config.step_labels == "none":
        return [np.array([float(row["correct"])]) for row in rows]
    return [np.array(procedural.step_labels(*item), dtype=float) for item in task.items(rows)]


def _task(config: Config, run: StageRun) -> Task:
    data = run.path(config.data)
    problems = {p["problem_id"]: p for split in SPLITS for p in read_problems(data, split)}
    read = read_graded if config.supervision == "truth" else read_samples
    rows = read(run.path(config.transfer), "sample_id")
    chosen = [row for row in rows if row["finished"] and problems[row["problem_id"]]["level"] in config.levels]
    transfer = at_most(_distinct(chosen), config.limit, run.seed)
    bank = read_samples(run.path(config.bank), "sample_id")
    shared = {row["problem_id"] for row in transfer} & {row["problem_id"] for row in bank}
    if shared:
        raise ConfigError(f"{run.name}: {len(shared)} problems of the bank are also learnt from; use separate splits")
    train_N = np.array([not held_out(row["problem_id"], config.fit.held_out) for row in transfer], dtype=bool)
    if not train_N.any():
        raise ConfigError(f"{run.name}: no finished solution of levels {config.levels} in {config.transfer}")
    return Task(problems, transfer, bank, train_N, format_of(run.path(config.transfer)))


def _distinct(rows: list[Row]) -> list[Row]:
    return list({(row["problem_id"], row["text"]): row for row in rows}.values())


def _supervise(config: Config, run: StageRun, task: Task) -> tuple[NDArray[np.floating], Labels]:
    """Scores of the bank and soft labels of the transfer items, by a model that knows easy labels only."""
    rows = read_graded(run.path(str(config.easy)))
    rows = [row for row in rows if row["finished"] and task.problems[row["problem_id"]]["level"] in EASY]
    rows = at_most(_distinct(rows), config.limit if config.weak_limit is None else config.weak_limit, run.seed)
    run.notes["supervisor_learns_from"] = f"{len(rows)} solutions"
    labels = _truth(config, task, rows)
    if len(set(np.concatenate(labels).tolist())) < 2:
        raise ConfigError(f"{run.name}: {len(rows)} easy samples, not both right and wrong ones; sample more of them")
    shared = {row["problem_id"] for row in rows} & {row["problem_id"] for row in (*task.bank, *task.transfer)}
    if shared:
        raise ConfigError(f"{run.name}: {len(shared)} problems of the supervisor are also labelled by it")
    with run.progress(1, "weak", "steps") as bar:
        scorer = fit_soft(
            run.path(config.weak_base or config.base), task.items(rows), labels, run.out / "models" / "weak",
            config.weak_fit, run.seed, template=config.template, layers=config.weak_layers, kind=_kind(config),
            on_step=bar.update,
            text_format=task.texts,
        )  # fmt: skip
    return predict(scorer, task.items(task.bank)), judge(scorer, task.items(task.transfer))


def _kind(config: Config) -> str:
    return "orm" if config.step_labels == "none" else "prm"


class _Features:
    """Hidden states of the untrained strong model where labels are, made when a probe first asks for them."""

    def __init__(self, config: Config, run: StageRun, task: Task) -> None:
        self.config, self.base, self.task = config, run.path(config.base), task
        self._cached: dict[str, tuple[NDArray[np.float32], list[int]]] = {}

    def of(self, which: Literal["transfer", "bank"]) -> tuple[NDArray[np.float32], list[int]]:
        """Features (R, D) of all scoring positions of all solutions, and how many each solution has (N,)."""
        if which not in self._cached:
            items = self.task.items(getattr(self.task, which))
            kind = _kind(self.config)
            contract = soft_contract(kind, self.config.template, self.task.texts)
            encoded = encode(load_tokenizer(self.base), contract, [p for p, _ in items], [steps for _, steps in items])
            positions = [kind_of(kind).judgements(row.positions) for row in encoded]
            states_RD = token_features(self.base, [row.ids for row in encoded], positions, self.config.layers)
            self._cached[which] = states_RD, [len(row) for row in positions]
        return self._cached[which]


def _follow(
    config: Config, run: StageRun, task: Task, name: str, weak: Labels, student: Student, features: _Features
) -> tuple[NDArray[np.floating], dict[str, Any]]:
    if student.probe.kind == "none":
        return _learn(config, run, task, name, weak, student), {}
    (x_RD, sizes), weak_R = features.of("transfer"), np.concatenate(weak)
    train_R = np.repeat(task.train, sizes)
    if student.probe.use == "predict":
        bank_RD, bank_sizes = features.of("bank")
        found = _split(probe_predictions(student.probe, x_RD[train_R], weak_R[train_R], bank_RD), bank_sizes)
        aggregation = soft_contract(_kind(config), config.template).aggregation
        return np.array([aggregate(np.clip(row, 0, 1), aggregation) for row in found]), {}
    result = probed(student.probe, x_RD[train_R], weak_R[train_R])
    labels_R = weak_R.copy()  # held-out solutions keep theirs: what is filtered out must not choose the checkpoint
    labels_R[train_R] = np.where(result.kept, result.labels, np.nan)
    about = {"of": int(train_R.sum()), **result.about}
    return _learn(config, run, task, name, _split(labels_R, sizes), student), about


def _split(values_R: NDArray[np.floating], sizes: Sequence[int]) -> Labels:
    return np.split(values_R, np.cumsum(sizes)[:-1])


def _learn(
    config: Config, run: StageRun, task: Task, name: str, labels: Labels, student: Student
) -> NDArray[np.floating]:
    """Bank scores of a fresh strong model, after its strong-to-strong rounds."""
    items = task.items(task.transfer)
    train, held = np.flatnonzero(task.train), np.flatnonzero(~task.train)
    for round_ in range(student.rounds + 1):
        with run.progress(1, f"{name} {round_ + 1}/{student.rounds + 1}", "steps") as bar:
            scorer = fit_soft(
                run.path(config.base), [items[i] for i in train], [labels[i] for i in train],
                run.out / "models" / name, config.fit, run.seed, student.loss, config.template,
                validation=([items[i] for i in held], [labels[i] for i in held]) if len(held) else None,
                on_log=lambda logs: run.log({f"{name}/{k}": v for k, v in logs.items() if k != "max_steps"}),
                kind=_kind(config), on_step=bar.update, text_format=task.texts,
            )  # fmt: skip
        if round_ < student.rounds:
            labels = judge(scorer, items)
    return predict(scorer, task.items(task.bank))


def _finish(
    config: Config, run: StageRun, task: Task, scores: dict[str, NDArray[np.floating]],
    labels: Labels, about: dict[str, Any],
) -> None:  # fmt: skip
    def scored() -> Any:
        for name, values in scores.items():
            for row, value in zip(task.bank, values, strict=True):
                key = {"problem_id": row["problem_id"], "sample_id": row["sample_id"]}
                yield {"method": name, **key, "score": float(value)}

    write_jsonl(run.out / SCORES, scored())
    if config.supervision == "weak":
        write_jsonl(
            run.out / PREDICTIONS,
            (
                {
                    "problem_id": row["problem_id"],
                    "sample_id": row["sample_id"],
                    **_predictions(config, label_S.tolist()),
                }
                for row, label_S in zip(task.transfer, labels, strict=True)
            ),
        )
        write_json(run.out / "filters.json", about)
    run.finish(models=len(scores), items=len(task.transfer), label_mean=float(np.concatenate(labels).mean()))


def _predictions(config: Config, labels: list[float]) -> Row:
    if config.step_labels == "none":
        return {"soft_pred": [1 - labels[0], labels[0]]}
    return {"step_soft_pred": [[1 - label, label] for label in labels]}
