"""Rows between stages: what a reader lets through, and what it says of a row that is not such a record."""

import json
import re

import pytest

from reward_models.records import BadRecord
from rlhf_e2h.records import Problem, Scored, read_graded, read_rows, read_samples, read_scored

SAMPLE = {"problem_id": "p", "sample_id": 0, "text": "# Answer\n\n5", "answer": None, "finished": True, "seed": [1]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_fields_that_are_not_ours_pass_through(tmp_path):
    graded, scored = SAMPLE | {"correct": 1}, SAMPLE | {"step_scores": [1, 0.5], "score": float("nan")}
    write(tmp_path / "samples.jsonl", SAMPLE)
    write(tmp_path / "graded.jsonl", graded)
    write(tmp_path / "scored_prm.jsonl", scored)
    assert read_samples(tmp_path, "answer") == [SAMPLE]
    assert read_graded(tmp_path) == [graded]  # other tools write verdicts as 0 and 1
    assert read_scored(tmp_path, "prm")[0]["step_scores"] == [1, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": "yes"}, ":2: correct is 'yes'; it must be true or false"),
        ({"answer": 5}, ":2: answer is 5; it must be text or null"),
        ({"finished": None}, ":2: finished is None; it must be true or false"),
        ({"text": None}, ":2: text is None; it must be text"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_line(tmp_path, changes, message):
    graded = SAMPLE | {"correct": True}
    write(tmp_path / "graded.jsonl", graded, graded | changes)
    with pytest.raises(BadRecord, match=re.escape(message)):
        read_graded(tmp_path)


def test_missing_fields_and_files(tmp_path):
    write(tmp_path / "graded.jsonl", SAMPLE)
    with pytest.raises(BadRecord, match=r"graded.jsonl:1: missing field 'correct'"):
        read_graded(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"scored_prm.jsonl: no such file"):
        read_scored(tmp_path, "prm")
    write(tmp_path / "p.jsonl", {"problem_id": "p", "level": "3"})
    with pytest.raises(BadRecord, match="level is '3'; it must be a whole number or null"):
        read_rows(tmp_path / "p.jsonl", Problem, ())
    write(tmp_path / "s.jsonl", {"step_scores": 0.5})
    with pytest.raises(BadRecord, match=r"step_scores is 0.5; it must be a list"):
        read_rows(tmp_path / "s.jsonl", Scored, ())
