"""The hard-label firewall: which file holds which label, and which stage may open it.

`prepare` writes problems and labels apart:

    problems_train.jsonl  problems_validation.jsonl  problems_test.jsonl    text, level, subject; never an answer
    labels_easy.jsonl     answers and solutions of the easy problems of train and validation
    labels_sealed.jsonl   the same for hard problems, for problems without a level, and for all of test
    stepwise_easy.jsonl   step labels of easy train problems, where the source has some
    stepwise_full.jsonl   step labels of all train problems; sealed as well

Scope "easy" is the first label file, "full" is both, "hard" the sealed one alone. Stages open labels through
`run.labels`, which applies `check_access` and records each file; here are the files and the rule, and no state.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reward_models.records import BadRecord, iter_jsonl, write_jsonl
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.levels import EASY
from rlhf_e2h.records import Problem, read_rows
from rlhf_e2h.runner.traits import STAGES

SPLITS = ("train", "validation", "test")
SCOPES = ("easy", "full", "hard")
EASY_LABELS = "labels_easy.jsonl"
SEALED_LABELS = "labels_sealed.jsonl"
EASY_STEPWISE = "stepwise_easy.jsonl"
FULL_STEPWISE = "stepwise_full.jsonl"
SEALED_FILES = frozenset({SEALED_LABELS, FULL_STEPWISE})
# Files of a `prepare` stage whose content depends on sealed labels; the identity of easy-only stages leaves them out.
ABOUT_SEALED = SEALED_FILES | {"summary.json", "leaks.jsonl"}
# A baseline that is meant to read hard labels says so by having one of these words in its stage name.
OPEN_WORDS = frozenset({"full", "dagger", "hardonly"})
PROBLEM_FIELDS = tuple(Problem.__annotations__)


class FirewallError(ValueError):
    """A stage asked for labels that it may not read."""


@dataclass(frozen=True)
class Label:
    """Reference answer and solution of one problem; `split` is the part of the split that the problem belongs to."""

    problem_id: str
    answer: str
    solution: str
    split: str


def problems_file(split: str) -> str:
    """Name of the problem file of a split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    return f"problems_{split}.jsonl"


def label_files(scope: str) -> tuple[str, ...]:
    """Names of the label files that a scope opens."""
    if scope not in SCOPES:
        raise ValueError(f"unknown label scope {scope!r}; use one of {', '.join(SCOPES)}")
    return {"easy": (EASY_LABELS,), "full": (EASY_LABELS, SEALED_LABELS), "hard": (SEALED_LABELS,)}[scope]


def stepwise_file(scope: str) -> str:
    """The file with the step labels of a scope; that of "hard" holds easy ones as well."""
    label_files(scope)
    return EASY_STEPWISE if scope == "easy" else FULL_STEPWISE


def is_sealed(split: str, level: int | None, easy_levels: Collection[int] = EASY) -> bool:
    """Whether the label of a problem goes to the sealed file. A problem without a level is not known to be easy."""
    return split == "test" or level not in easy_levels


def write_split(
    out: str | Path, examples_by_split: Mapping[str, Sequence[Example]], easy_levels: Collection[int] = EASY
) -> list[str]:
    """Write the five files of a split and return their names.

    Only the named fields of a problem are written, so that an extra field of the source (an answer under another
    name, a rationale) cannot slip through.

    Raises:
        ValueError: a problem id occurs twice, in one split or in two.
    """
    out = Path(out)
    split_of: dict[str, str] = {}
    labels: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    for split in SPLITS:
        for example in examples_by_split.get(split, ()):
            if example.problem_id in split_of:
                raise ValueError(
                    f"problem id {example.problem_id!r} occurs twice ({split_of[example.problem_id]}, {split}); "
                    "give each problem an id of its own"
                )
            split_of[example.problem_id] = split
            label = Label(example.problem_id, example.answer, example.solution, split)
            labels[is_sealed(split, example.level, easy_levels)].append(asdict(label))
    names = []
    for split in SPLITS:
        names.append(problems_file(split))
        write_jsonl(out / names[-1], map(_problem_row, examples_by_split.get(split, ())))
    for name, sealed in ((EASY_LABELS, False), (SEALED_LABELS, True)):
        names.append(name)
        write_jsonl(out / name, labels[sealed])
    return names


def _problem_row(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in PROBLEM_FIELDS}


def read_problems(prepare_dir: str | Path, split: str) -> list[dict[str, Any]]:
    """The problems of a split, in file order: problem_id, problem, level, subject, source."""
    return read_rows(Path(prepare_dir) / problems_file(split), Problem, PROBLEM_FIELDS)


def read_labels(prepare_dir: str | Path, scope: str, splits: Collection[str] = SPLITS) -> dict[str, Label]:
    """Labels by problem id, narrowed to `splits`: a full-data baseline asks for ("train",) and never holds test labels.

    This function does not ask who calls: stages use `run.labels`, which checks and records.

    Raises:
        FileNotFoundError: `prepare_dir` is not the output of a `prepare` stage.
        BadRecord: a line lacks a field, or an id occurs twice.
    """
    labels: dict[str, Label] = {}
    for name in label_files(scope):
        path = Path(prepare_dir) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such label file; give the output folder of a prepare stage")
        for row in iter_jsonl(path, required=("problem_id", "answer", "solution", "split")):
            label = Label(row["problem_id"], row["answer"], row["solution"], row["split"])
            if label.problem_id in labels:
                raise BadRecord(f"{path}: problem id {label.problem_id!r} occurs twice; run prepare again")
            labels[label.problem_id] = label
    return {key: label for key, label in labels.items() if label.split in splits}


def allowed_scope(stage_kind: str, stage_name: str, purpose: str = "") -> str:
    """The widest scope a stage may read: "easy", or "full" for final evaluation and for baselines that say so.

    `purpose` is "evaluation", "selection" (choosing a checkpoint: easy labels only), "training" or empty. A stage that
    measures finished policies declares it (`traits.Traits.sealed_labels`): `grade` must name the purpose each time,
    because graded samples also feed training; the others have the purpose "evaluation" unless they say another.
    """
    if OPEN_WORDS & set(re.split(r"[^a-z]+", stage_name.lower())):
        return "full"
    purposes = {"never": (), "evaluation": ("", "evaluation"), "named": ("evaluation",)}
    sealed = STAGES[stage_kind].sealed_labels if stage_kind in STAGES else "never"
    return "full" if purpose in purposes[sealed] else "easy"


def check_file(stage_kind: str, stage_name: str, file: str | Path) -> None:
    """Raise `FirewallError` if the stage may not take this file as an input (a sealed one, in an easy-only stage)."""
    if Path(file).name in SEALED_FILES:
        check_access(stage_kind, stage_name, "", "full")


def check_access(stage_kind: str, stage_name: str, purpose: str, scope: str) -> None:
    """Raise `FirewallError` if the stage may not read `scope`."""
    label_files(scope)
    if scope == "easy" or allowed_scope(stage_kind, stage_name, purpose) == "full":
        return
    as_purpose = f" with purpose {purpose!r}" if purpose else ""
    raise FirewallError(
        f"stage {stage_name!r} ({stage_kind}{as_purpose}) may not read the sealed labels of hard and test problems; "
        "use labels: easy, or, if this is meant to be a baseline trained on hard labels, put the word 'full', "
        "'dagger' or 'hardonly' in the stage's name"
    )
