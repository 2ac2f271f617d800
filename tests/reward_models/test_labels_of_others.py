"""Labels and rows in the spellings of other tools, and labels from which nothing can be learnt."""

from __future__ import annotations

import json

import pytest

from reward_models.__main__ import run
from reward_models.contract import StepContract
from reward_models.dataset import build_rows, check_material
from reward_models.formats import convert, load_records, read_records
from reward_models.model import load_tokenizer
from reward_models.records import BadRecord, Stepwise, as_label, as_labels
from reward_models.targets import step_targets


@pytest.mark.parametrize(
    ("value", "label"),
    [(1, 1), (0, 0), (-1, 0), (1.0, 1), (True, 1), (False, 0), ("+", 1), ("-", 0), (None, None), (float("nan"), None)],
)
def test_spellings_of_a_label(value, label):
    assert as_label(value) == label


@pytest.mark.parametrize("value", [0.3, 2, "yes", [1], {}])
def test_what_is_no_label(value):
    with pytest.raises(ValueError, match="is not allowed; use 1 for right, 0"):
        as_label(value)


def test_minus_one_beside_zero_is_not_guessed():
    assert as_labels([1, -1, None]) == [1, 0, None]
    with pytest.raises(ValueError, match="both -1 and 0, so what is 0"):
        as_labels([1, 0, -1])


SOLUTION = "2 + 3 = 5.\n\n# Answer\n\n5"
STEPS = ["2 + 3 = 5.", "# Answer\n\n5"]
TALK = [{"role": "system", "content": "s"}, {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": SOLUTION}]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("row", "labels", "outcome"),
    [
        ({"messages": TALK, "label": True}, None, 1),
        ({"conversations": TALK, "correct": 0}, None, 0),
        ({"prompt": "2+3?", "completion": SOLUTION, "label": False}, None, 0),
        ({"prompt": TALK[:2], "completion": TALK[2:], "label": -1}, None, 0),
        ({"problem": "2+3?", "text": SOLUTION, "outcome": 1}, None, 1),
        ({"prompt": "2+3?", "completions": STEPS, "labels": [True, False]}, [1, 0], None),
        ({"prompt": TALK[:2], "completions": STEPS, "labels": [True, None]}, [1, None], None),
        (
            {
                "conversations": [
                    {"role": "user", "content": "2+3? Step 1: 2 + 3 = 5."},
                    {"role": "assistant", "content": "+"},
                    {"role": "user", "content": "Step 2: The answer is: 5"},
                    {"role": "assistant", "content": "-"},
                ]
            },
            [1, 0],
            0,
        ),
        (
            {
                "conversations": [
                    {"role": "user", "content": "2+3? Step 1: 2 + 3 = 5.\nStep 2: The answer is: 5"},
                    {"role": "assistant", "content": "+"},
                ]
            },
            None,
            1,
        ),
        ({"input": "2+3? Step 1: 2 + 3 = 5. ки\nStep 2: The answer is: 5 ки", "value": ["+", "-"]}, [1, 0], 0),
        ({"input": "2+3? Step 1: 2 + 3 = 5. <|step|>\nStep 2: The answer is: 5<|step|>", "value": [1, 1]}, [1, 1], 1),
    ],
)
def test_rows_of_other_libraries(row, labels, outcome):
    (record,) = convert(row)
    assert (record.problem, record.steps, record.labels, record.outcome) == ("2+3?", STEPS, labels, outcome)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "q", "steps": "a\n\nb", "outcome": 1}, r"steps is text; give a list of texts \(or a field text\)"),
        ({"problem": "q", "steps": ["a", None], "labels": [1, 1]}, "steps holds None; each step must be text"),
        ({"problem": None, "steps": ["a"], "outcome": 1}, "problem is None; it must be text"),
        ({"problem": "q", "steps": ["a"], "labels": "1"}, "labels is '1'; give a list"),
        ({"problem": "q", "text": None, "correct": True}, "text is None; give text"),
        ({"prompt": "q", "completions": "a", "labels": [1]}, "completions is text"),
        ({"messages": TALK}, "no label; give one of correct, outcome, label"),
        ({"messages": TALK[:2], "label": 1}, "messages end without a reply"),
        ({"input": "q Step 1: a ки", "value": ["+", "-"]}, "1 marks in input and 2 entries in value"),
        (
            {"chosen": "a", "rejected": "b"},
            "a pair of a chosen and a rejected solution; pairs are for `train --kind pairwise`",
        ),
    ],
)
def test_flawed_rows_say_why_and_where(tmp_path, row, message):
    path = tmp_path / "records.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n")
    for read in (load_records, read_records):
        with pytest.raises(BadRecord, match=r"records\.jsonl:2: " + message):
            read(path)


def material(base, records, kind, max_length=1000):
    rows, counts = build_rows(
        records, load_tokenizer(base), StepContract(kind), loss_on="every_token", max_length=max_length
    )
    check_material(records, rows.sources, counts, kind, max_length)
    return counts


def test_one_class_only_is_refused(base):
    both = [Stepwise("q", ["a", "b"], [1, 1], 1), Stepwise("q", ["a", "c"], [1, 0], 0)]
    for kind in ("orm", "prm", "oprm"):
        material(base, both, kind)
    with pytest.raises(ValueError, match=r"all 6 labels are 1; nothing to tell apart. Give wrong steps too"):
        material(base, [both[0]] * 3, "prm")
    with pytest.raises(ValueError, match=r"all 3 labels are 1; nothing to tell apart. Give wrong solutions too"):
        material(base, [both[0]] * 3, "orm")
    with pytest.raises(ValueError, match=r"all 2 labels are 0; .* Give right solutions too"):
        material(base, [both[1]] * 2, "orm")


def test_most_records_too_long_are_refused(base, caplog):
    short = [Stepwise("q", ["a"], [n % 2]) for n in range(8)]
    long = Stepwise("q", ["good step. " * 50], [1])
    assert material(base, [*short, long, long], "prm", 100)["too_long"] == 2
    assert "2 of 10 records (too_long) are left out" in caplog.text
    with pytest.raises(ValueError, match=r"9 of 17 records \(too_long\) are left out, .* max_length 100; raise it"):
        material(base, [*short, *[long] * 9], "prm", 100)


def test_a_record_without_step_labels_has_targets_that_are_ignored():
    assert step_targets(Stepwise("q", ["a", "b"], None, 1), "prm") == [-100.0, -100.0]


def test_command_line_refuses_a_file_of_which_most_rows_are_flawed(base, tmp_path, capsys):
    good, bad = {"problem": "q", "steps": ["a"], "labels": [1]}, {"problem": "q", "steps": "a", "labels": [1]}
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, bad, bad)))
    assert run(["train", str(base), str(tmp_path / "r.jsonl"), str(tmp_path / "out"), "--kind", "prm"]) == 1
    error = capsys.readouterr().err
    assert "r.jsonl:2: steps is text" in error and "most rows cannot be used" in error
