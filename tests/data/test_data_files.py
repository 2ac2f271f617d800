"""Reading rows from every kind of place, and saying what is wrong with it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from data_rows import math_row, math_rows

from reward_models.records import BadRecord
from rlhf_e2h.data.files import iter_hub, iter_rows, sha256_of
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.data.math import last_boxed, read_math


def test_jsonl_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n\n{"x": 2}\n')
    assert [(row.where, row.fields) for row in iter_rows(path)] == [(f"{path}:1", {"x": 1}), (f"{path}:3", {"x": 2})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": ', r"a\.jsonl:2: not JSON \(.*column 7\); was the file cut off"),
        ("a.jsonl", b'{"x": "\xff"}\n', r"a\.jsonl:1: not UTF-8 text"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: expected a JSON object, found list"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: the file has no rows"),
        ("a.json", b"[]", r"a\.json: the file has no rows"),
        ("a.json", b"3", r"a\.json: expected a JSON object or a list of objects, found int"),
        ("a.json", b'[{"x": 1}, 2]', r"a\.json: row 1: expected a JSON object, found int"),
        ("a.parquet", b"PAR1 cut off", r"a\.parquet: not a complete Parquet file .*; download it again"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRecord, match=message):
        list(iter_rows(tmp_path / name))


def test_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder; give a \.jsonl"):
        list(iter_rows(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no .* file in this folder"):
        list(iter_rows(tmp_path))
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(ValueError, match=r"unknown kind of file '\.csv'; use one of \.jsonl"):
        list(iter_rows(tmp_path / "a.csv"))


def test_git_lfs_pointer(tmp_path: Path) -> None:
    """The prm800k data files are such pointers in a clone without git-lfs."""
    path = tmp_path / "train.jsonl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 42\n")
    with pytest.raises(FileNotFoundError, match=r"this is a Git-LFS pointer, not the data; run `git lfs pull`"):
        list(iter_rows(path))


def test_parquet(tmp_path: Path) -> None:
    rows = math_rows(1000, 2)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = list(iter_rows(tmp_path / "a.parquet"))
    assert [row.fields for row in read] == rows
    assert read[3].where == f"{tmp_path}/a.parquet: row 3"


def test_original_layout_of_math(tmp_path: Path) -> None:
    """train/algebra/1.json with `type` and "Level 3"; ids are those of the prm800k split files."""
    for number, level in ((2, "Level 3"), (10, "Level 5"), (1, "Level ?")):
        row = math_row(number, level)
        row["type"] = row.pop("subject")
        path = tmp_path / "MATH" / "train" / "algebra" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row))
    intake = Intake(unknown_level="drop")
    examples = list(read_math(iter_rows(tmp_path / "MATH" / "train"), "train", intake))
    assert [(e.problem_id, e.level, e.subject, e.answer) for e in examples] == [
        ("train/algebra/2.json", 3, "Algebra", "2"),
        ("train/algebra/10.json", 5, "Algebra", "10"),
    ]
    assert intake.report()["no level"]["first"] == [str(tmp_path / "MATH" / "train" / "algebra" / "1.json")]


def test_ids_and_origin(tmp_path: Path) -> None:
    """math_splits/train.jsonl of prm800k holds problems of both sides of MATH; numbering counts dropped rows too."""
    rows = [math_row(1, 1) | {"unique_id": "test/algebra/7.json"}, math_row(2, None), math_row(3, 2)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = list(read_math(iter_rows(path), "train", Intake(unknown_level="drop")))
    assert [(e.problem_id, e.origin) for e in examples] == [
        ("test/algebra/7.json", "test"),
        ("math-train-00002", "train"),
    ]


def test_own_answer_or_box(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps(math_row(7, 1) | {"answer": 8})
        + "\n"
        + json.dumps(math_row(1, 1) | {"solution": "It is 9.", "answer": "9"})
    )
    assert [e.answer for e in read_math(iter_rows(path), "train", Intake())] == ["7", "9"]
    assert [e.answer for e in read_math(iter_rows(path), "train", Intake(), "jsonl", True)] == ["8", "9"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1}, then \boxed{ 2 }", "2"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"$\boxed 2$.", "2"),
        (r"\fbox{3}", "3"),
        (r"\boxed{}", ""),
        ("none", None),
        (r"\boxed{1", None),
    ],
)
def test_last_boxed(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("offline, yet it asks the network"))
    with pytest.raises(
        FileNotFoundError, match=r"cannot read data set 'someone/math' from the hub: .*download its files"
    ):
        list(iter_hub("someone/math", "train"))


def test_hub_reads_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set folder in the hub's own layout, read through the same library calls."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("algebra", "geometry"):
        folder = tmp_path / "repo" / name
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text(json.dumps(math_row(len(name), 2, name)) + "\n")
    (tmp_path / "repo" / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {n}\n  data_files:\n  - split: train\n    path: {n}/train.jsonl\n"
            for n in ("algebra", "geometry")
        )
        + "---\n"
    )
    rows = list(iter_hub(str(tmp_path / "repo"), "train"))
    assert [row.fields["subject"] for row in rows] == ["algebra", "geometry"]
    assert [row.fields["subject"] for row in iter_hub(str(tmp_path / "repo"), "train", ["geometry"])] == ["geometry"]


def test_sha256_of_file_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "d" / "a.json"
    file.parent.mkdir()
    file.write_text("abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    before = sha256_of(file.parent)
    file.rename(file.with_name("b.json"))
    assert sha256_of(file.parent) != before
