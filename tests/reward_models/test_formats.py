"""Converters on rows written by hand and on the real rows of the shared data."""

import json
import os
from pathlib import Path

import pytest

from reward_models.formats import balance, convert, cut_after_error, load_records
from reward_models.records import BadRecord, Stepwise

DATA = Path(os.environ.get("E2H_DATA") or Path(__file__).parents[3] / "shared/data") / "prm_samples.jsonl"
needs_data = pytest.mark.skipif(not DATA.is_file(), reason="prm_samples.jsonl is not here; set E2H_DATA")


def prm800k_row(*steps, finish="solution"):
    return {"labeler": "x", "question": {"problem": "q"}, "label": {"steps": list(steps), "finish_reason": finish}}


def rated(*pairs, chosen=None, human=None):
    completions = [{"text": text, "rating": rating, "flagged": False} for text, rating in pairs]
    return {
        "completions": completions,
        "chosen_completion": chosen,
        "human_completion": human and {"text": human, "rating": None},
    }


def test_prm800k_path_alternatives_and_answer():
    row = prm800k_row(
        rated(("a", 1), ("bad a", -1), chosen=0),
        rated(("x", -1), ("y", -1), human="b"),
        rated(("so 5\n\n# Answer\n\n5", 0), chosen=0),
    )
    path, *others = convert(row)
    # what a person wrote is right, so only unrated steps of a model leave open where the first error is
    assert [record.extra["first_error"] for record in (path, *others)] == [-1, 0, 1, 1]
    assert path.steps == ["a", "b", "so 5", "# Answer\n\n5"]
    assert path.labels == [1, None, 1, 1]  # the human's step has no rating; 0 counts as valid
    assert [(record.steps, record.labels) for record in others] == [
        (["bad a"], [0]),
        (["a", "x"], [None, 0]),
        (["a", "y"], [None, 0]),
    ]


def test_prm800k_stops_where_nothing_was_chosen():
    path, alternative = convert(prm800k_row(rated(("a", 1), chosen=0), rated(("b", -1), ("c", None))))
    assert path.steps == ["a"] and alternative.labels == [None, 0]


def test_prm800k_says_where_the_first_error_is_only_if_all_before_it_is_known():
    row = prm800k_row(rated(("a", -1), chosen=0), rated(("b", None), chosen=0), rated(("c", 1), ("d", -1), chosen=0))
    assert [record.extra["first_error"] for record in convert(row)] == [0, 0]
    row = prm800k_row(rated(("a", None), chosen=0), rated(("b", 1), ("c", -1), chosen=0))
    assert [record.extra["first_error"] for record in convert(row)] == [None, None]


@pytest.mark.parametrize("first", [2, -2, "1", True, 0.5])
def test_a_first_error_that_is_no_step(first):
    with pytest.raises(ValueError, match="first_error"):
        Stepwise("q", ["a", "b"], extra={"first_error": first})


def test_math_shepherd_by_hand():
    text = "How many? Step 1: One. ки\nStep 2: Two. The answer is: 2 ки\nStep 3: cut off"
    row = {"input": text, "label": "How many? Step 1: One. +\nStep 2: Two. The answer is: 2 -\nStep 3: cut off"}
    (record,) = convert(row)
    assert record.problem == "How many?"
    assert record.steps == ["One.", "Two.", "# Answer\n\n2"]
    assert (record.labels, record.outcome) == ([1, 0, 0], 0)


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("q Step 1: a ки", "q Step 1: a ?", "neither"),
        ("q Step 1: a ки", "other Step 1: a +", "line up"),
        ("q a ки", "q a +", "Step 1"),
    ],
)
def test_broken_math_shepherd(text, label, message):
    with pytest.raises(ValueError, match=message):
        convert({"input": text, "label": label})


def test_processbench_and_trl():
    row = {"id": "g-1", "problem": "q", "steps": ["a", "b", "c"], "final_answer_correct": False, "label": 1}
    (record,) = convert(row)
    assert (record.labels, record.outcome) == ([1, 0, None], 0)
    assert convert({**row, "label": -1, "final_answer_correct": True})[0].labels == [1, 1, 1]
    (record,) = convert({"prompt": "q", "completions": ["a", "b"], "labels": [True, False]})
    assert (record.problem, record.labels) == ("q", [1, 0])


def test_graded_sample():
    (record,) = convert({"problem_id": "p", "problem": "q", "text": "a\n\n# Answer\n\n5", "correct": True})
    assert (record.steps, record.labels, record.outcome) == (["a", "# Answer\n\n5"], None, 1)
    assert record.extra == {"problem_id": "p"}


def test_steps_behind_the_first_error_go_and_with_them_the_outcome():
    cut = cut_after_error(Stepwise("q", ["a", "b", "c"], [1, 0, 1], 0))
    assert (cut.steps, cut.labels, cut.outcome) == (["a", "b"], [1, 0], None)
    whole = Stepwise("q", ["a", "b"], [1, 0], 0)
    assert cut_after_error(whole) is whole


def test_bad_rows_are_named_and_counted(tmp_path):
    path = tmp_path / "r.jsonl"
    rows = [
        {"problem": "q", "steps": ["a"], "labels": [1]},
        {"problem": "q", "steps": ["a"], "labels": [1, 0]},
        {"colour": "red"},
        {"problem": "q", "steps": ["a"], "labels": [2]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    records, bad = load_records(path)
    assert len(records) == 1
    assert [reason.removeprefix(str(path)).split(":")[1] for reason in bad] == ["2", "3", "4"]
    assert "2 labels for 1 steps" in bad[0] and "unknown format" in bad[1] and "label 2" in bad[2]


def test_nothing_usable_and_unknown_names(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"colour": "red"}\n')
    with pytest.raises(BadRecord, match="no usable row"):
        load_records(path)
    with pytest.raises(ValueError, match="prm900k"):
        load_records(path, "prm900k")
    with pytest.raises(ValueError, match="after_error"):
        load_records(path, after_error="maybe")


def test_both_sets_are_cut_as_prepare_cuts_them():
    """A blank line inside a step would be a step end to whoever scores the text; "Mr." ends no step."""
    (path,) = convert(prm800k_row(rated(("Ask Mr.", 1), chosen=0), rated(("Smith.\n\nHe says 5.\n# Answer\n5", 1))))
    assert path.steps == ["Ask Mr. Smith.\nHe says 5.", "# Answer\n\n5"]
    text = "q Step 1: We add.\n\nSo. ки\nAs Step 1: says. ки\nStep 3: The answer is: x. The answer is: 5 ки"
    (record,) = convert({"input": text, "label": text.replace("ки", "+")})
    assert record.steps == ["We add.\nSo.", "As Step 1: says.", "The answer is: x.", "# Answer\n\n5"]


def test_balance_keeps_one_to_three():
    def group(problem, right, wrong):
        return [Stepwise(problem, ["a"], None, outcome) for outcome in [1] * right + [0] * wrong]

    kept = balance([*group("p", 2, 20), *group("q", 5, 5), *group("r", 4, 0)])
    counts = {
        problem: [sum(r.problem == problem and r.outcome == outcome for r in kept) for outcome in (1, 0)]
        for problem in "pqr"
    }
    assert counts == {"p": [2, 6], "q": [5, 5], "r": [0, 0]}


@needs_data
def test_real_rows():
    """Counts read off the file: 8 PRM800K trees, 7 Math-Shepherd rows that all end in '-', 3 MATH-APS trees."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    by_format = {}
    for row in rows:
        by_format.setdefault(row["format"], []).append(convert(row["record"]))
    assert {name: len(found) for name, found in by_format.items()} == {"prm800k": 8, "math-shepherd": 7, "math-aps": 3}
    shepherd = [record for found in by_format["math-shepherd"] for record in found]
    assert {record.outcome for record in shepherd} == {0}
    assert shepherd[1].steps[0] == "There are 20 x 40 = <<20*40=8000>>8000 black seeds."
    assert shepherd[1].steps[-1] == "# Answer\n\n16000"
    first = by_format["prm800k"][0]
    assert first[0].labels == [1, None, 1, 1, 1, 1, 1]  # the sixth step carries the answer section
    assert len(first) == 1 + 5 + 4  # five rejected second steps, four alternatives of the last
    nodes = sum(len(row["record"]["reasoning_steps"]) for row in rows if row["format"] == "math-aps")
    assert 0 < sum(len(found) for found in by_format["math-aps"]) <= nodes
