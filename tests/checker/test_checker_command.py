"""`e2h check` as a user runs it."""

import argparse
import json

import pytest

from rlhf_e2h.checker import command


def check(capsys, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    status = command.run(parser.parse_args([str(argument) for argument in arguments]))
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.jsonl"
    rows = [
        {"gold": "1/2", "prediction": r"so \boxed{0.5}", "expected": True, "id": "a"},
        {"gold": "3", "prediction": "4", "expected": False, "note": {"kept": [1]}},
        {"gold": "3", "prediction": None, "expected": True},
        {"gold": "3", "prediction": "3.0", "expected": False},
        {"gold": "3", "prediction": "3", "expected": False, "contested": "why not"},
        {"gold": "x+1", "prediction": "9^{9^{9^9}}", "expected": False, "category": "adversarial"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def test_rows_keep_order_and_fields(capsys, cases, tmp_path):
    out = tmp_path / "out.jsonl"
    status, _, _ = check(capsys, cases, "-o", out)
    assert status == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    given = [json.loads(line) for line in cases.read_text().splitlines() if line]
    assert [{key: row[key] for key in before} for row, before in zip(rows, given, strict=True)] == given
    assert [row["equal"] for row in rows] == [True, False, False, True, True, False]
    assert [row["reason"] for row in rows] == ["number", "different", "no_answer", "number", "string", "refused"]


def test_summary_counts_groups_apart(capsys, cases):
    _, out, _ = check(capsys, cases)
    assert "6 rows, 3 equal (string 1, number 2, different 1, no_answer 1, refused 1)" in out
    assert "core: accuracy 0.5000 (2/4), false positives 1/2 (50.00 %), false negatives 1/2 (50.00 %)" in out
    assert "contested: accuracy 0.0000 (0/1)" in out
    assert "adversarial: accuracy 1.0000 (1/1), false positives 0/1 (0.00 %), false negatives 0/0" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r":2: not a line of JSON"),
        ('{"gold": "1"}', ":2: missing field 'prediction'"),
        ('{"gold": 1, "prediction": "1"}', ":2: field 'gold' is 1; it must be text"),
        ('{"gold": "1", "prediction": "1", "expected": "yes"}', ":2: field 'expected' is 'yes'; use true or false"),
        ("[1]", ":2: expected a JSON object, found list"),
        (b"\xff\xfe", ":2: not a line of JSON"),
    ],
)
def test_bad_lines(capsys, tmp_path, line, message):
    path, out = tmp_path / "c.jsonl", tmp_path / "out.jsonl"
    good = b'{"gold": "1", "prediction": "1"}\n'
    path.write_bytes(good + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good)
    status, _, error = check(capsys, path, "-o", out)
    assert status == 2
    assert f"c.jsonl{message}" in error
    assert not out.exists()
    status, output, _ = check(capsys, path, "-o", out, "--skip-bad")
    assert status == 0
    assert "2 rows, 2 equal (string 2)" in output
    assert "1 bad lines skipped" in output


def test_missing_file(capsys, tmp_path):
    status, _, error = check(capsys, tmp_path / "none.jsonl")
    assert status == 2
    assert "none.jsonl: no such file" in error
