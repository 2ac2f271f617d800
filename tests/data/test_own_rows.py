"""Rows and files as people bring them: other field names, conversations, pandas' numbers, Windows files, folders."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from data_rows import math_row, math_rows

from reward_models.files import BadRecord, normal_lines
from reward_models.records import read_jsonl
from rlhf_e2h.data.files import Row, iter_rows, list_folder, sha256_of, skipped_files
from rlhf_e2h.data.firewall import read_labels, read_problems
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.data.levels import parse_level
from rlhf_e2h.data.math import read_math

Write = Callable[..., Path]
ROWS = [{"problem": "1+1?", "answer": "2", "level": 1}, {"problem": "2+2?", "answer": "4", "level": 4}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def zst(path: Path, content: bytes) -> None:
    with pyarrow.output_stream(str(path), compression="zstd") as out:
        out.write(content)


@pytest.mark.parametrize("content", [LINES.encode("utf-8-sig"), LINES.replace("\n", "\r\n").encode(), LINES.replace("\n", "\r").encode()])  # fmt: skip  # noqa: E501
def test_byte_order_mark_and_line_ends(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    assert [row.fields for row in iter_rows(tmp_path / "a.jsonl")] == ROWS == read_jsonl(tmp_path / "a.jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_utf16_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / name).write_bytes(json.dumps(ROWS[0]).encode(encoding))
    with pytest.raises(BadRecord, match=r"UTF-16 text; save it as UTF-8 \(`iconv"):
        list(iter_rows(tmp_path / name))


def test_line_ends_inside_texts_become_lf(tmp_path: Path) -> None:
    row = {"text": "a\r\n\r\nb\rc", "deep": [{"x": "\r"}], "n": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    expected = {"text": "a\n\nb\nc", "deep": [{"x": "\n"}], "n": 1}
    assert normal_lines(row) == expected == read_jsonl(tmp_path / "a.jsonl")[0]


def test_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    zst(tmp_path / "b.jsonl.zst", LINES.encode())
    zst(tmp_path / "c.json.zst", json.dumps(ROWS).encode())
    assert [row.fields for row in iter_rows(tmp_path)] == ROWS * 3
    assert next(iter_rows(tmp_path / "a.jsonl.gz")).where == f"{tmp_path}/a.jsonl.gz:1"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_file_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    if suffix == ".gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    else:
        zst(path, LINES.encode())
    for broken in (path.read_bytes()[:-6], LINES.encode()):
        path.write_bytes(broken)
        with pytest.raises(BadRecord, match=rf"a\.jsonl{suffix}: not a complete {suffix} file .*download it again"):
            list(iter_rows(path))


def test_folder_skips_what_is_not_data(tmp_path: Path) -> None:
    names = [".ipynb_checkpoints/a-checkpoint.jsonl", "._a.jsonl", "__MACOSX/a.jsonl", "dataset_info.json",
             "checkpoint-500/trainer_state.json", "checkpoint-500/x.jsonl", "model.safetensors.index.json"]  # fmt: skip
    for name in ["a.jsonl", "sub/b.jsonl", *names]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINES)
    assert [row.fields for row in iter_rows(tmp_path)] == ROWS * 2
    assert sorted(skipped_files(tmp_path)) == sorted(names)
    before = sha256_of(tmp_path)
    (tmp_path / "._a.jsonl").write_text("other")
    assert sha256_of(tmp_path) == before
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "sub" / "b.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .* file in this folder; skipped by their names: "):
        list_folder(tmp_path)


def test_save_to_disk(tmp_path: Path) -> None:
    other = [{"problem": "3+3?", "answer": "6", "level": 2}]
    sides = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(other)}
    datasets.DatasetDict(sides).save_to_disk(tmp_path / "both")
    sides["train"].save_to_disk(tmp_path / "one")
    assert [row.fields for row in iter_rows(tmp_path / "both", "test")] == other
    assert [row.fields for row in iter_rows(tmp_path / "both")] == ROWS
    assert [row.fields for row in iter_rows(tmp_path / "one", "test")] == ROWS  # one data set has one part
    with pytest.raises(BadRecord, match="no split 'dev'; it has train, test"):
        list(iter_rows(tmp_path / "both", "dev"))


@pytest.mark.parametrize(
    ("value", "level"),
    [(1.0, 1), ("Level 3", 3), ("3.0", 3), ("level 2", 2), (float("nan"), None), (None, None), ("Level ?", None)],
)
def test_levels(value: Any, level: int | None) -> None:
    assert parse_level(value) == level


@pytest.mark.parametrize("value", [1.5, 0, 6, True, "hard", "Level 1.5", 10])
def test_no_level(value: Any) -> None:
    with pytest.raises(ValueError, match="is not allowed; use 1 to 5"):
        parse_level(value)


def read(fields: dict[str, Any], **rules: Any) -> Any:
    row = Row("f:1", {"level": 1, **fields})
    return next(iter(read_math([row], "train", Intake(**rules), "jsonl", True)), None)


@pytest.mark.parametrize(
    "fields",
    [
        {"problem": "2+3?", "answer": 5},
        {"question": "2+3?", "gold": 5.0},
        {"prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+3?"}], "target": "5"},
        {"messages": [{"role": "user", "content": "2+3?"}], "final_answer": ["5"]},
        {"query": " 2+3?\n", "ground_truth": "5", "solution": None},
    ],
)
def test_problem_and_answer_are_enough(fields: dict[str, Any]) -> None:
    example = read(fields)
    assert (example.problem, example.answer, example.solution) == ("2+3?", "5", "")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "It is \\boxed{5}."}]},
        {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "It is \\boxed{5}."}]},
        {"prompt": "2+3?", "completion": "It is \\boxed{5}."},
        {
            "prompt": [{"role": "user", "content": "2+3?"}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": "It is \\boxed{5}."}]}],
        },
    ],
)
def test_conversations(fields: dict[str, Any]) -> None:
    example = read(fields)
    assert (example.problem, example.solution, example.answer) == ("2+3?", "It is \\boxed{5}.", "5")


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (1e-7, "0.0000001"), (-3.0, "-3"), (10**20, "1" + "0" * 20)])
def test_numbers_as_answers(value: Any, text: str) -> None:
    assert read({"problem": "p", "answer": value}).answer == text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem": None, "answer": "5"}, "f:1: field 'problem' is None; it must be text"),
        ({"problem": ["x"], "answer": "5"}, r"f:1: field 'problem' is \['x'\]; it must be text"),
        ({"problem": "p", "answer": True}, "f:1: field 'answer' is True; give the answer as text or a number"),
        ({"problem": "p", "answer": {"a": 1}}, "f:1: field 'answer' is .*; give the answer as text or a number"),
        ({"problem": "p", "answer": "5", "solution": 7}, "f:1: field 'solution' is 7; give text, .* or null if"),
        ({"problem": "p", "answer": "5", "subject": 7}, "f:1: field 'subject' is 7; it must be text"),
        ({"problem": "p", "answer": "5", "problem_id": ["a"]}, "f:1: field 'problem_id' is .*; an id is text"),
        ({"problem": "p", "answer": "5", "level": [1]}, r"f:1: level \[1\] is not allowed"),
        ({"messages": [{"role": "assistant", "content": "5"}]}, "f:1: messages: .* no message of the user"),
        ({"messages": [{"role": "user"}]}, r"f:1: messages: message 0 \(user\) has no text"),
        ({"problem": "p", "answer": None}, "f:1: neither an answer nor a solution; .* no_answer=drop"),
    ],
)  # fmt: skip
def test_flawed_fields_are_sentences(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        read(fields)


def test_nan_is_missing(tmp_path: Path) -> None:
    """pandas' to_json and to_parquet of a table with gaps."""
    (tmp_path / "a.jsonl").write_text('{"problem": "p", "answer": NaN, "level": NaN, "solution": NaN}\n')
    (row,) = iter_rows(tmp_path / "a.jsonl")
    assert row.fields == {"problem": "p", "answer": None, "level": None, "solution": None}
    rules = {"no_answer": "drop", "unknown_level": "keep"}
    assert list(read_math([row], "train", Intake(**rules))) == []


def test_prepare_without_solutions(run_prepare: Write, jsonl: Write) -> None:
    """They are prepared like others; their label has an answer and no solution, and the summary counts them."""
    train = [{k: v for k, v in row.items() if k != "solution"} | {"answer": 7} for row in math_rows(1000, 2)]
    train[0] = math_row(1100, 1)
    folder = jsonl("train/a.jsonl", train).parent
    (folder / "dataset_info.json").write_text("{}")
    test = jsonl("test.jsonl", math_rows(3000, 1))
    out = run_prepare(source="jsonl", train=str(folder), test=str(test))
    labels = read_labels(out, "full")
    texts = {labels[row["problem_id"]].solution for row in read_problems(out, "train")[1:]}
    assert texts == {""}
    assert labels[read_problems(out, "train")[0]["problem_id"]].solution.endswith("# Answer\n\n1100")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["without_solution"] == {"train": 9, "validation": 0, "test": 0}
    assert summary["left_out"]["files"] == {"skipped": ["dataset_info.json"]}
