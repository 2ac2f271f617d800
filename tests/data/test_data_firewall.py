"""Which file holds which label, and who may open it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reward_models.records import BadRecord
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.firewall import (
    FirewallError,
    allowed_scope,
    check_access,
    check_file,
    read_labels,
    read_problems,
    write_split,
)


def example(problem_id: str, level: int | None) -> Example:
    return Example(problem_id, f"text {problem_id}", level, "Algebra", f"answer {problem_id}", f"why {problem_id}", "t")


SPLIT = {
    "train": [example("tr1", 1), example("tr3", 3), example("tr4", 4), example("tr5", 5), example("trx", None)],
    "validation": [example("va2", 2), example("va4", 4)],
    "test": [example("te1", 1), example("te5", 5)],
}


def test_each_label_is_in_its_file(tmp_path: Path) -> None:
    write_split(tmp_path, SPLIT)
    assert list(read_labels(tmp_path, "easy")) == ["tr1", "tr3", "va2"]
    assert list(read_labels(tmp_path, "full")) == ["tr1", "tr3", "va2", "tr4", "tr5", "trx", "va4", "te1", "te5"]
    assert list(read_labels(tmp_path, "full", splits=["train"])) == ["tr1", "tr3", "tr4", "tr5", "trx"]
    assert list(read_labels(tmp_path, "hard", splits=["train"])) == ["tr4", "tr5", "trx"]
    label = read_labels(tmp_path, "full")["te5"]
    assert (label.answer, label.solution, label.split) == ("answer te5", "why te5", "test")


def test_other_easy_levels(tmp_path: Path) -> None:
    write_split(tmp_path, SPLIT, easy_levels=[1])
    assert list(read_labels(tmp_path, "easy")) == ["tr1"]


def test_problem_files_hold_no_answer(tmp_path: Path) -> None:
    write_split(tmp_path, SPLIT)
    for split, count in (("train", 5), ("validation", 2), ("test", 2)):
        rows = read_problems(tmp_path, split)
        assert len(rows) == count
        assert all(set(row) == {"problem_id", "problem", "level", "subject", "source"} for row in rows)
        assert "answer" not in (tmp_path / f"problems_{split}.jsonl").read_text()


def test_hard_labels_are_nowhere_but_in_the_sealed_file(tmp_path: Path) -> None:
    """The poison test on files: other hard labels change the sealed file and not one byte of the others."""
    garbage = {
        split: [Example(e.problem_id, e.problem, e.level, e.subject, "POISON", "POISON", e.source) for e in part]
        for split, part in SPLIT.items()
    }
    easy = {"tr1", "tr3", "va2"}
    poisoned = {
        split: [
            original if original.problem_id in easy else bad for original, bad in zip(part, garbage[split], strict=True)
        ]
        for split, part in SPLIT.items()
    }
    names = write_split(tmp_path / "clean", SPLIT)
    assert write_split(tmp_path / "poisoned", poisoned) == names
    changed = [n for n in names if (tmp_path / "clean" / n).read_bytes() != (tmp_path / "poisoned" / n).read_bytes()]
    assert changed == ["labels_sealed.jsonl"]


@pytest.mark.parametrize(
    ("kind", "name", "purpose", "scope"),
    [
        ("sft", "sft_easy", "training", "easy"),
        ("sft", "sft_full", "training", "full"),
        ("ppo", "ppo-dagger", "training", "full"),
        ("sft", "sft_hardonly", "", "full"),
        ("ppo", "ppo_hard", "", "easy"),  # prompts of hard problems, not labels
        ("rest", "rest_easy_to_hard", "", "easy"),
        ("sft", "carefully_tuned", "", "easy"),  # contains the letters, not the word
        ("evaluate", "evaluate", "", "full"),
        ("evaluate", "evaluate", "evaluation", "full"),
        ("evaluate", "evaluate", "selection", "easy"),
        ("grade", "grade_train", "", "easy"),
        ("grade", "grade_train", "training", "easy"),
        ("grade", "grade_test", "evaluation", "full"),
        ("sft", "sft_easy", "evaluation", "easy"),
        ("report", "report", "", "easy"),
    ],
)
def test_allowed_scope(kind: str, name: str, purpose: str, scope: str) -> None:
    assert allowed_scope(kind, name, purpose) == scope
    check_access(kind, name, purpose, "easy")
    if scope == "full":
        check_access(kind, name, purpose, "full")
    else:
        for sealed in ("full", "hard"):
            with pytest.raises(FirewallError, match=rf"stage '{name}' \({kind}.* may not read the sealed labels"):
                check_access(kind, name, purpose, sealed)


def test_sealed_files_as_inputs() -> None:
    check_file("reward", "prm_easy", "x/stepwise_easy.jsonl")
    check_file("reward", "prm_full", Path("x/stepwise_full.jsonl"))
    for name in ("stepwise_full.jsonl", "labels_sealed.jsonl"):
        with pytest.raises(FirewallError, match="stage 'prm_easy'"):
            check_file("reward", "prm_easy", Path("x") / name)


def test_unknown_scope() -> None:
    with pytest.raises(ValueError, match="unknown label scope 'all'; use one of easy, full, hard"):
        check_access("evaluate", "evaluate", "", "all")


def test_ids_must_be_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"problem id 'a' occurs twice \(train, test\)"):
        write_split(tmp_path, {"train": [example("a", 1)], "test": [example("a", 1)]})
    with pytest.raises(ValueError, match=r"problem id 'a' occurs twice \(train, train\)"):
        write_split(tmp_path, {"train": [example("a", 1), example("a", 2)]})


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the output folder of a prepare stage"):
        read_labels(tmp_path, "easy")
    row = {"problem_id": "a", "answer": "1", "solution": "", "split": "train"}
    (tmp_path / "labels_easy.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(BadRecord, match="problem id 'a' occurs twice"):
        read_labels(tmp_path, "easy")
