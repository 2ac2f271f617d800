"""The prepare stage on rows of our own, and on real MATH where it is there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_rows import math_row, math_rows

from reward_models.records import BadRecord, read_jsonl
from rlhf_e2h.data.firewall import read_labels, read_problems
from rlhf_e2h.data.procedural import solve
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.stages.prepare import Config

Write = Callable[..., Path]
FILES = [
    "problems_train.jsonl",
    "problems_validation.jsonl",
    "problems_test.jsonl",
    "labels_easy.jsonl",
    "labels_sealed.jsonl",
]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def by_level(folder: Path, split: str) -> list[int]:
    counts = summary(folder)["counts"][split]
    assert counts["all"] == len(read_problems(folder, split))
    return [counts[str(level)] for level in range(1, 6)]


def test_procedural(run_prepare: Write) -> None:
    out = run_prepare(train_per_level=[4, 3, 2, 5, 6], validation_size=7, test_size=10)
    assert by_level(out, "train") == [4, 3, 2, 5, 6]
    assert by_level(out, "validation") == [2, 2, 1, 1, 1]
    assert by_level(out, "test") == [2, 2, 2, 2, 2]
    labels = read_labels(out, "full")
    problems = [row for split in ("train", "validation", "test") for row in read_problems(out, split)]
    assert len({row["problem"] for row in problems}) == len(problems) == len(labels) == 37
    for row in problems:
        label = labels[row["problem_id"]]
        assert solve(row["problem"])[1] == label.answer == SECTIONS.answer(label.solution)
    assert set(read_labels(out, "easy")) == {r["problem_id"] for r in problems[:27] if r["level"] <= 3}


def test_procedural_test_set_does_not_depend_on_the_train_size(run_prepare: Write) -> None:
    small, large = (run_prepare(str(n), train_size=n, test_size=10) for n in (5, 50))
    assert (small / "problems_test.jsonl").read_bytes() == (large / "problems_test.jsonl").read_bytes()


def test_math_files(run_prepare: Write, jsonl: Write) -> None:
    train = jsonl("train.jsonl", math_rows(1000, 6))
    test = jsonl("test.jsonl", math_rows(3000, 4))
    out = run_prepare(source="math", train=str(train), test=str(test), validation_size=10)
    assert by_level(out, "train") == [4, 4, 4, 4, 4]
    assert by_level(out, "validation") == [2, 2, 2, 2, 2]
    assert by_level(out, "test") == [4, 4, 4, 4, 4]
    easy = read_labels(out, "easy")
    assert len(easy) == 12 + 6
    label = read_labels(out, "full")["math-test-00000"]
    assert (label.answer, label.solution) == ("3100", "We see dbaa.\n\nSo it is \\boxed{3100}.\n\n# Answer\n\n3100")
    assert summary(out)["leaks"] == {"threshold": 0.8}
    again = run_prepare("again", source="math", train=str(train), test=str(test), validation_size=10)
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in [*FILES, "summary.json"])
    other = run_prepare("other", source="math", train=str(train), test=str(test), validation_size=10, data_seed=1)
    assert (out / FILES[1]).read_bytes() != (other / FILES[1]).read_bytes()


def test_poisoned_source_changes_nothing_easy(run_prepare: Write, jsonl: Write) -> None:
    """Other hard answers in the source leave every file but the sealed one as it was, byte for byte."""
    sides = {"train": math_rows(1000, 6), "test": math_rows(3000, 3)}
    clean = {side: jsonl(f"{side}.jsonl", rows) for side, rows in sides.items()}
    poison = {
        side: [row | {"solution": "\\boxed{POISON}"} if row["level"] > 3 or side == "test" else row for row in rows]
        for side, rows in sides.items()
    }
    poisoned = {side: jsonl(f"poison/{side}.jsonl", rows) for side, rows in poison.items()}
    outs = [
        run_prepare(name, source="math", train=str(p["train"]), test=str(p["test"]), validation_size=5, train_size=15)
        for name, p in (("clean", clean), ("poisoned", poisoned))
    ]
    changed = [
        name for name in [*FILES, "leaks.jsonl"] if (outs[0] / name).read_bytes() != (outs[1] / name).read_bytes()
    ]
    assert changed == ["labels_sealed.jsonl"]


def test_duplicates_and_near_duplicates(run_prepare: Write, jsonl: Write) -> None:
    train, test = math_rows(1000, 3), math_rows(3000, 2)
    long = "Let the first of many quite different words stand here and let there be enough of them to matter so that "
    train[0]["problem"] = test[0]["problem"].upper()  # equals a test problem up to case
    train[1]["problem"] = train[4]["problem"]  # equals another train problem
    train[2]["problem"], test[1]["problem"] = long + "we find the sum.", long + "we find the product."
    train[3]["problem"], test[2]["problem"] = "Compute $\\sin 0$.", "Compute $\\sin 330$."
    settings = {
        "source": "math",
        "train": str(jsonl("train.jsonl", train)),
        "test": str(jsonl("test.jsonl", test)),
    }
    report = run_prepare("report", **settings)
    left_out = summary(report)["left_out"]["duplicates"]
    assert left_out["pairs"] == [
        {"dropped": "math-train-00000", "kept": "math-test-00000", "kind": "spacing or case"},
        {"dropped": "math-train-00004", "kept": "math-train-00001", "kind": "exact"},
    ]
    leaks = {(row["left_id"], row["right_id"]): row["kind"] for row in read_jsonl(report / "leaks.jsonl")}
    assert leaks == {
        ("math-train-00002", "math-test-00001"): "near",
        ("math-train-00003", "math-test-00002"): "same but for numbers",
    }
    assert len(read_problems(report, "test")) == 10
    drop = run_prepare("drop", near_duplicates="drop", **settings)
    gone = {r["problem_id"] for r in read_problems(report, "train")} - {
        r["problem_id"] for r in read_problems(drop, "train")
    }
    assert gone == {"math-train-00002"}


def test_random_split_of_one_file(run_prepare: Write, jsonl: Write) -> None:
    rows = [*math_rows(1000, 10), math_row(7, "Level ?")]
    out = run_prepare(
        source="jsonl",
        train=str(jsonl("all.jsonl", rows)),
        split="random",
        test_size=15,
        validation_size=5,
        unknown_level="keep",
    )
    assert by_level(out, "test") == [3, 3, 3, 3, 3]
    assert by_level(out, "validation") == [1, 1, 1, 1, 1]
    counts = summary(out)["counts"]["train"]
    assert (counts["all"], counts["none"]) == (31, 1)
    assert "jsonl-train-00050" not in read_labels(out, "easy")


def test_too_long_problems_do_not_train_but_are_tested(run_prepare: Write, jsonl: Write) -> None:
    train, test = math_rows(1000, 2), math_rows(3000, 1)
    train[0]["solution"] = "So long. " * 100 + "\\boxed{1}"
    test[0]["solution"] = "So long. " * 100 + "\\boxed{1}"
    out = run_prepare(
        source="math", train=str(jsonl("a.jsonl", train)), test=str(jsonl("b.jsonl", test)), max_chars=400
    )
    assert (by_level(out, "train"), by_level(out, "test")) == ([1, 2, 2, 2, 2], [1, 1, 1, 1, 1])
    assert summary(out)["left_out"]["too long"] == {"rows": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "Level 7"}, r"train\.jsonl:2: level 'Level 7' is not allowed; use 1 to 5"),
        ({"level": None}, r"train\.jsonl:2: the level is unknown; correct the row, or set unknown_level=drop"),
        ({"solution": "No box."}, r"train\.jsonl:2: the solution has no answer in a \\boxed{}; .* no_answer=drop"),
        ({"solution": "Empty \\boxed{}."}, r"train\.jsonl:2: the solution has no answer"),
        ({"problem": " "}, r"train\.jsonl:2: field 'problem' is ' '; it must be text"),
        ({"problem": 5}, r"train\.jsonl:2: field 'problem' is 5"),
        (
            {"unique_id": "x"},
            r"train\.jsonl:2: problem id 'x' was already used at .*train\.jsonl:1; .* duplicate_id=drop",
        ),
    ],
)
def test_bad_rows(run_prepare: Write, jsonl: Write, change: dict[str, Any], message: str) -> None:
    rows = math_rows(1000, 1)
    rows[0]["unique_id"] = "x"
    rows[1] |= change
    train, test = jsonl("train.jsonl", rows), jsonl("test.jsonl", math_rows(3000, 1))
    with pytest.raises(BadRecord, match=message):
        run_prepare(source="math", train=str(train), test=str(test))


def test_bad_rows_can_be_left_out(run_prepare: Write, jsonl: Write) -> None:
    rows = math_rows(1000, 2)
    rows[0]["level"] = "Level ?"
    rows[1]["solution"] = "No box."
    rows[2]["unique_id"] = rows[3]["unique_id"] = "x"
    train, test = jsonl("train.jsonl", rows), jsonl("test.jsonl", math_rows(3000, 1))
    drop = dict.fromkeys(("unknown_level", "no_answer", "duplicate_id"), "drop")
    out = run_prepare(source="math", train=str(train), test=str(test), **drop)
    assert by_level(out, "train") == [0, 1, 2, 2, 2]
    left_out = summary(out)["left_out"]
    assert {kind: left_out[kind]["rows"] for kind in ("no level", "no answer", "duplicate id")} == {
        "no level": 1,
        "no answer": 1,
        "duplicate id": 1,
    }
    assert left_out["no answer"]["first"][0].endswith("train.jsonl:2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "procedural"}, "needs train_size and test_size"),
        ({"source": "math"}, "needs `train`"),
        ({"source": "math", "train": "x"}, "needs `test`; give it, or use split: random"),
        ({"train_size": 1, "test_size": 1, "easy_levels": [1, 2, 3, 4, 5]}, "easy_levels .* is not allowed"),
        ({"train_size": 1, "test_size": 1, "easy_levels": [0]}, "easy_levels .* is not allowed"),
        ({"train_size": 1, "test_size": 1, "easy_levels": [4, 5]}, "easy_levels .* is not allowed"),
        ({"train_size": -1, "test_size": 1}, "use 0 or more"),
        ({"train_per_level": [1, 2], "test_size": 1}, "give five numbers"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_too_much_asked(run_prepare: Write, jsonl: Write) -> None:
    train, test = jsonl("train.jsonl", math_rows(1000, 1)), jsonl("test.jsonl", math_rows(3000, 1))
    with pytest.raises(ValueError, match="cannot take 6 of 5 problems"):
        run_prepare(source="math", train=str(train), test=str(test), validation_size=6)
    with pytest.raises(ValueError, match="no problem is left for train"):
        run_prepare("b", source="math", train=str(train), test=str(test), validation_size=5)


def _peak() -> int:
    """Kilobytes that this process has held at most."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_all_of_real_math(run_prepare: Write, shared_data: Path) -> None:
    """Expected counts: PROVENANCE of the data (levels, rows without level or answer, duplicates)."""
    Path("/proc/self/clear_refs").write_text("5")  # other tests' peak is forgotten
    start, before = time.monotonic(), _peak()
    out = run_prepare(
        source="math",
        train=str(shared_data / "math_train.jsonl"),
        test=str(shared_data / "math_test.jsonl"),
        unknown_level="drop",
        no_answer="drop",
    )
    assert by_level(out, "test") == [437, 894, 1131, 1214, 1324]
    left_out = summary(out)["left_out"]
    assert [place.rsplit(":", 1)[1] for place in left_out["no level"]["first"]] == ["2774", "2833"]
    assert [place.rsplit(":", 1)[1] for place in left_out["no answer"]["first"]] == ["5342", "5344"]
    pairs = {(p["dropped"], p["kept"]) for p in left_out["duplicates"]["pairs"]}
    numbers = {(dropped[-4:], kept.startswith("math-test")) for dropped, kept in pairs}
    assert numbers == {("2948", True), ("1414", True), ("0959", False), ("1227", False)}
    assert sum(by_level(out, "train")) == 7500 - 2 - 2 - 4
    # Read, split, de-duplicated and leak-checked: the goals are 60 s and 1 GB.
    assert time.monotonic() - start < 60
    # above what other tests left in this process, which holds torch: stricter than 1 GB for all of it
    assert _peak() - before < 500_000
