"""PRM800K, MetaMATH and Math-Shepherd: from raw rows to what training reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_rows import math_row

from reward_models.prm800k import clean
from reward_models.records import BadRecord, read_jsonl, read_stepwise
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.firewall import read_labels, read_problems
from rlhf_e2h.data.gsm8k import read_gsm8k, split_answer
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.data.levels import problem_key
from rlhf_e2h.data.metamath import read_metamath, response_steps
from rlhf_e2h.data.prm800k import read_prm800k
from rlhf_e2h.data.shepherd import read_shepherd
from rlhf_e2h.data.solutions import Matcher, Solution, draw, without_repeats
from rlhf_e2h.data.step_targets import step_targets
from rlhf_e2h.stages.prepare import Config

Write = Callable[..., Path]


# --- PRM800K ------------------------------------------------------------------------------------------------


def completion(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": False}


def step(*completions: tuple[str, int | None], chosen: int | None = None, human: str | None = None) -> dict[str, Any]:
    return {
        "completions": [completion(*c) for c in completions],
        "human_completion": {"text": human, "rating": None, "source": "human"} if human else None,
        "chosen_completion": chosen,
    }


def prm800k_record(problem: str, steps: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    question = {"problem": problem, "ground_truth_answer": "5"}
    return {"question": question, "label": {"steps": steps, "finish_reason": "solution"}, **extra}


def prm800k(*records: dict[str, Any], **options: Any) -> list[Solution]:
    return list(read_prm800k((Row(f"r{i}", r) for i, r in enumerate(records)), **options))


def test_prm800k_tree() -> None:
    solutions = prm800k(
        prm800k_record(
            " What is $2 + 3$? ",
            [
                step(("Add them.", 1), ("Guess.", -1), chosen=0),
                step(("It is 6.", -1), ("Unrated.", None), human="It is 5."),
                step(("Hm.", 0), ("So it is 5.\n\n# Answer\n\n5", 1), chosen=1),
            ],
        )
    )
    assert [(s.steps, s.labels, s.complete) for s in solutions] == [
        (("Add them.", "It is 5.", "So it is 5.", "# Answer\n\n5"), (1, None, 1, 1), True),
        (("Guess.",), (0,), False),
        (("Add them.", "It is 6."), (None, 0), False),
        (("Add them.", "It is 5.", "Hm."), (None, None, 1), False),
    ]
    assert {s.problem for s in solutions} == {"What is $2 + 3$?"}


def test_single_steps_rated_good_are_targets_of_fine_tuning() -> None:
    """Sun et al. 2024, released code: the +1 steps only, each after the chosen ones; only an answer ends the text."""
    record = prm800k_record(
        "What is 2 + 3?",
        [
            step(("Add them.", 1), ("Count.", 1), ("Guess.", -1), chosen=0),
            step(("It is 6.", -1), ("Perhaps.", 0), human="It is 5."),
            step(("Hm.", 0), ("So it is 5.\n\n# Answer\n\n5", 1), chosen=1),
        ],
    )
    solutions = prm800k(record, record)  # the same record twice
    rows = [{"problem": s.problem, "steps": s.steps, "ratings": s.ratings, "level": 1} for s in solutions]
    head = "# Question\n\nWhat is 2 + 3?\n\n# Solution\n\n"
    assert [tuple(target.row().values()) for target in step_targets(rows)] == [
        (head, "Add them.\n\n", False),
        (head + "Add them.\n\nIt is 5.\n\n", "So it is 5.\n\n", False),
        (head + "Add them.\n\nIt is 5.\n\nSo it is 5.\n\n", "# Answer\n\n5", True),
        (head, "Count.\n\n", False),
    ]
    assert list(step_targets([{"problem": "p", "steps": ["a"], "labels": [1]}])) == []  # no ratings


@pytest.mark.parametrize(
    ("steps", "chosen", "complete"),
    [
        # the only completion goes on even if it was not chosen; no further step without one
        ([step(("A.", -1)), step(("B.", 1), ("C.", 1)), step(("D.", 1))], ("A.",), False),
        ([step(("A.", 0), chosen=0), step(("# Answer\n\n5", 1), chosen=0)], ("A.", "# Answer\n\n5"), False),
        ([step(("A.", 1), chosen=0), step(("Done.", 1), chosen=0)], ("A.", "Done."), False),  # no answer
        ([step(("# Answer\n\n5", 1), chosen=0)], ("# Answer\n\n5",), True),
        (
            [step(("A.", 1), chosen=0), {"completions": None, "human_completion": None, "chosen_completion": None}],
            ("A.",),
            False,
        ),
    ],
)
def test_prm800k_chosen_path(steps: list[dict[str, Any]], chosen: tuple[str, ...], complete: bool) -> None:
    first = prm800k(prm800k_record("p", steps))[0]
    assert (first.steps, first.complete) == (chosen, complete)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("It is 5.\n# Answer\n5", ["It is 5.", "# Answer\n\n5"]),
        ("It is 5.# Answer\n\n5\n", ["It is 5.", "# Answer\n\n5"]),
        (" One.\n\nTwo. ", ["One.\nTwo."]),
        ("# Answer\n\n5", ["# Answer\n\n5"]),
        ("  ", []),
    ],
)
def test_prm800k_completion_text(text: str, steps: list[str]) -> None:
    assert clean(text) == steps


def test_prm800k_title_is_no_step_end() -> None:
    record = prm800k_record("p", [step(("Ask Mr.", 1), chosen=0), step(("Smith for 5.", 1), ("Jones.", -1), chosen=0)])
    solutions = prm800k(record)
    assert [(s.steps, s.labels) for s in solutions] == [
        (("Ask Mr. Smith for 5.",), (1,)),
        (("Ask Mr. Jones.",), (0,)),
    ]


def test_prm800k_quality_control() -> None:
    record = prm800k_record("p", [step(("A.", 1), chosen=0)], is_quality_control_question=True)
    assert len(prm800k(record)) == 1
    assert prm800k(record, quality_control=False) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": {"problem": "p"}}, r"r0: not a PRM800K record \(KeyError: 'label'\)"),
        ({"question": None, "label": {}}, r"r0: not a PRM800K record"),
        (prm800k_record("p", [step(("A.", 2), chosen=0)]), r"r0: rating 2 is not allowed; use -1, 0, 1 or null"),
        (prm800k_record("p", [step(("A.", 1), chosen=3)]), r"r0: not a PRM800K record \(IndexError"),
    ],
)
def test_prm800k_bad_records(record: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        prm800k(record)


# --- MetaMATH -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "steps", "answer"),
    [
        ("We add. So 5.\nThe answer is: 5", ["We add.", "So 5."], "5"),
        ("We add.\n#### 5\nThe answer is: 5", ["We add."], "5"),
        ("The answer is: no. The answer is: $x$", ["The answer is: no."], "$x$"),
        ("No end.", ["No end."], ""),
    ],
)
def test_metamath_response(response: str, steps: list[str], answer: str) -> None:
    assert response_steps(response) == (steps, answer)


def metamath_row(kind: str, original: str, query: str, response: str = "So.\nThe answer is: 5") -> dict[str, Any]:
    return {"type": kind, "query": query, "original_question": original, "response": response}


def test_metamath() -> None:
    rows = [
        Row("a", metamath_row("MATH_Rephrased", "old", "new")),
        Row("b", metamath_row("GSM_SV", "gsm", "gsm x")),
        Row("c", metamath_row("MATH_AnsAug", "old", "old", "cut off")),
    ]
    solutions = list(read_metamath(rows))
    assert [(s.original, s.problem, s.complete, s.easy_source) for s in solutions] == [
        ("old", "new", True, False),
        ("gsm", "gsm x", True, True),
        ("old", "old", False, False),
    ]
    assert solutions[0].steps == ("So.", "# Answer\n\n5")
    assert [s.solution_id for s in read_metamath(rows, gsm8k=False)] == ["metamath-000000", "metamath-000002"]
    with pytest.raises(BadRecord, match="a: missing field 'response'"):
        list(read_metamath([Row("a", {"type": "MATH_SV", "query": "q"})]))


# --- Math-Shepherd ------------------------------------------------------------------------------------------


def shepherd_row(text: str, signs: str, task: str = "MATH") -> dict[str, Any]:
    label = text
    for sign in signs:
        label = label.replace("ки", sign, 1)
    return {"input": text, "label": label, "task": task}


def test_shepherd() -> None:
    text = "What is 2 + 3? Step 1: Add <<2+3=5>>. ки\nStep 2: A-B + C.\n\nIt is 5. The answer is: 5 ки"
    other = "Q? Step 1: One. ки\nStep 2: Two"  # truncated: no label on the second step
    rows = [
        shepherd_row(text, "+-"),
        shepherd_row(other, "+"),
        shepherd_row("No steps here. ки", "+"),
        shepherd_row(text, "++", "GSM8K"),
    ]
    solutions = list(read_shepherd([Row(str(i), row) for i, row in enumerate(rows)]))
    assert [(s.problem, s.steps, s.labels) for s in solutions] == [
        ("What is 2 + 3?", ("Add .", "A-B + C.\nIt is 5.", "# Answer\n\n5"), (1, 0, 0)),
        ("Q?", ("One.",), (1,)),
    ]
    assert len(list(read_shepherd([Row(str(i), row) for i, row in enumerate(rows)], tasks=()))) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"input": "Q? Step 1: A. ки", "label": "Q? Step 1: B. +", "task": "MATH"},
            "x: step 1: `label` must be `input`",
        ),
        (
            {"input": "Q? Step 1: A. ки", "label": "R? Step 1: A. +", "task": "MATH"},
            "x: `input` and `label` do not begin",
        ),
        ({"input": "Q? Step 1: A. ки", "label": "Q? Step 1: A. ?", "task": "MATH"}, "x: step 1"),
        ({"input": "Q? Step 1: A. ки"}, "x: missing field 'label'"),
    ],
)
def test_shepherd_bad_rows(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        list(read_shepherd([Row("x", row)]))


# --- GSM8K --------------------------------------------------------------------------------------------------


def test_gsm8k() -> None:
    text = "He has <<48/2=24>>24.\nSo 24 + 1,000 = <<24+1000=1024>>1,024.\n#### 1,024"
    assert split_answer(text) == ("He has 24.\nSo 24 + 1,000 = 1,024.", "1024")
    rows = [
        Row("a", {"question": "Q?", "answer": text}),
        Row("b", {"question": "R?", "solution": "x\n#### -3", "answer": "-3"}),
    ]
    examples = list(read_gsm8k(rows, "train", Intake(default_level=1)))
    assert [(e.problem_id, e.level, e.answer) for e in examples] == [
        ("gsm8k-train-00000", 1, "1024"),
        ("gsm8k-train-00001", 1, "-3"),
    ]
    with pytest.raises(BadRecord, match=r"GSM8K rows have no level \(default_level gives one\)"):
        list(read_gsm8k(rows, "train", Intake()))
    with pytest.raises(BadRecord, match="the solution has no answer after '####'"):
        list(read_gsm8k([Row("a", {"question": "Q?", "answer": "none"})], "train", Intake(default_level=1)))


def test_gsm8k_level_is_the_number_of_steps() -> None:
    rows = [Row("a", {"question": f"Q{n}?", "answer": "step\n" * n + "#### 1"}) for n in range(1, 9)]
    assert [e.level for e in read_gsm8k(rows, "train", Intake(), [2, 3, 4, 5])] == [1, 1, 2, 3, 4, 5, 5, 5]
    assert [e.level for e in read_gsm8k(rows, "train", Intake(), [1, 2, 2, 3])] == [1, 2, 4, 5, 5, 5, 5, 5]


# --- Matching, drawing, writing -----------------------------------------------------------------------------


def solution(name: str, original: str = "p", **changes: Any) -> Solution:
    return Solution(name, original, original, ("s",), **changes)


def test_matching_by_whole_text_only() -> None:
    matcher = Matcher(
        {problem_key("Find x"): ("train", 2), problem_key("held"): ("test", 1), problem_key("v"): ("validation", 1)}
    )
    names = ["find  X", "Find", "Find x now", "held", "v"]
    matched = list(matcher.match(solution(str(i), name) for i, name in enumerate(names)))
    assert [(s.solution_id, s.level) for s in matched] == [("0", 2)]
    assert matcher.report() == {
        "used": 1,
        "taken as easy without a level": 0,
        "problem is in test": 1,
        "problem is in validation": 1,
        "problem is unknown": 2,
        "unknown problems": 2,
    }
    easy = Matcher({problem_key("held"): ("test", 1)}, outside="easy")
    assert [s.level for s in easy.match([solution("a", "new"), solution("b", "held")])] == [1]
    gsm = Matcher({})
    assert [s.level for s in gsm.match([solution("a", "g", easy_source=True)])] == [1]


def test_repeats_are_dropped_but_not_those_of_other_problems() -> None:
    rows = [solution("a"), solution("b"), solution("c", "q"), solution("d", labels=(1,)), solution("e", labels=(0,))]
    assert [s.solution_id for s in without_repeats(rows)] == ["a", "c", "d", "e"]


def test_each_solution_is_drawn_before_any_is_drawn_twice() -> None:
    rows = [solution(f"a{i}", "a") for i in range(6)] + [solution("b0", "b")]
    drawn = draw(rows, per_problem=2, draws=3, seed=0)
    assert [len(part) for part in drawn] == [3, 3, 3]
    of_a = [s.solution_id for part in drawn for s in part if s.original == "a"]
    assert sorted(of_a) == [f"a{i}" for i in range(6)]
    assert all(part[-1].solution_id == "b0" for part in drawn)
    assert draw(rows, 0, 1, 0)[0] != draw(rows, 0, 1, 5)[0] and len(draw(rows, 0, 1, 0)[0]) == 7
    assert len(draw(rows, 4, 2, 0)[1]) == 5


@pytest.fixture
def split(run_prepare: Write, jsonl: Write) -> Path:
    """Train problems 1 (level 1), 2 (level 5), 3 (level 2); test problem 9."""
    train = jsonl("train.jsonl", [math_row(1, 1), math_row(2, 5), math_row(3, 2)])
    test = jsonl("test.jsonl", [math_row(9, 3)])
    return run_prepare("split", source="math", train=str(train), test=str(test))


def text_of(number: int) -> str:
    return str(math_row(number, 1)["problem"])


def test_prm800k_stage(run_prepare: Write, jsonl: Write, split: Path) -> None:
    def record(problem: str) -> dict[str, Any]:
        return prm800k_record(problem, [step(("A.", 1), ("B.", -1), chosen=0), step(("# Answer\n\n5", 1), chosen=0)])

    phase1 = jsonl("phase1.jsonl", [record(text_of(1)), record(text_of(1)), record(text_of(9))])
    phase2 = jsonl("phase2.jsonl", [record(text_of(2).upper()), record("from nowhere")])
    out = run_prepare(source="prm800k", problems=str(split), records=[str(phase1), str(phase2)])
    assert [(row["level"], row["problem"]) for row in read_problems(out, "train")] == [
        (1, text_of(1)),
        (5, text_of(2).upper()),
    ]
    assert [label.solution for label in read_labels(out, "easy").values()] == ["A.\n\n# Answer\n\n5"]
    assert len(read_labels(out, "full")) == 2
    easy, full = (read_stepwise(out / f"stepwise_{name}.jsonl") for name in ("easy", "full"))
    assert [(r.steps, r.labels) for r in easy] == [(["A.", "# Answer\n\n5"], [1, 1]), (["B."], [0])]
    assert [r.problem for r in full] == [text_of(1)] * 2 + [text_of(2).upper()] * 2
    matching = json.loads((out / "summary.json").read_text())["matching"]
    assert (matching["used"], matching["problem is in test"], matching["problem is unknown"]) == (6, 2, 2)
    assert text_of(9) not in "".join(path.read_text() for path in out.glob("*.jsonl"))
    results = run_prepare.results  # what the line of the stage shows
    assert (results["test_problem"], results["unknown_problem"]) == (2, 2)


def test_metamath_stage(run_prepare: Write, jsonl: Write, split: Path) -> None:
    rows = [metamath_row("MATH_AnsAug", text_of(1), f"query {i}") for i in range(5)]
    rows += [
        metamath_row("MATH_SV", text_of(2), "hard one"),
        metamath_row("GSM_SV", "gsm", "gsm one"),
        metamath_row("MATH_SV", text_of(9), "t"),
    ]
    records = jsonl("metamath.jsonl", rows)
    out = run_prepare(source="metamath", problems=str(split), records=[str(records)], solutions_per_problem=3, draws=2)
    assert json.loads((out / "summary.json").read_text())["solutions"] == {
        "fit for fine-tuning": 7,
        "in each draw": [5, 5],
    }
    levels = {row["problem"]: row["level"] for row in read_problems(out, "train")}
    assert levels == {**{f"query {i}": 1 for i in range(5)}, "hard one": 5, "gsm one": 1}
    assert len(read_labels(out, "easy")) == 8 and len(read_labels(out, "full")) == 10
    assert read_jsonl(out / "stepwise_easy.jsonl") == []


def test_shepherd_stage(run_prepare: Write, jsonl: Write, split: Path) -> None:
    rows = [shepherd_row(f"{text_of(n)} Step 1: A. ки\nStep 2: B. The answer is: 5 ки", "+-") for n in (1, 2, 9, 77)]
    out = run_prepare(source="shepherd", problems=str(split), records=[str(jsonl("s.jsonl", rows))])
    assert [r.labels for r in read_stepwise(out / "stepwise_easy.jsonl")] == [[1, 0, 0]]
    assert [r.problem for r in read_stepwise(out / "stepwise_full.jsonl")] == [text_of(1), text_of(2)]
    assert json.loads((out / "summary.json").read_text())["matching"]["unknown problems"] == 1


def test_nothing_matches(run_prepare: Write, jsonl: Write, split: Path) -> None:
    records = jsonl("metamath.jsonl", [metamath_row("MATH_SV", "elsewhere", "q")])
    with pytest.raises(ValueError, match="none of the problems of metamath is a train problem of"):
        run_prepare(source="metamath", problems=str(split), records=[str(records)])


def test_solution_settings() -> None:
    with pytest.raises(ValueError, match=r"needs `problems` .* and `records`"):
        Config(source="prm800k", problems="@prepare")
    with pytest.raises(ValueError, match="draws 0 is not allowed"):
        Config(source="metamath", problems="@prepare", records=["x"], draws=0)


# --- Real rows ----------------------------------------------------------------------------------------------


def test_real_samples(run_prepare: Write, jsonl: Write, shared_data: Path) -> None:
    """Raw rows of PRM800K and Math-Shepherd against the paper's split of real MATH.

    PROVENANCE: six of the eight PRM800K problems are in MATH500, one in the train file, one in neither.
    """
    out = run_prepare(
        "paper",
        source="math",
        train=str(shared_data / "math_train.jsonl"),
        test=str(shared_data / "math_test.jsonl"),
        split="paper",
        unknown_level="keep",
        no_answer="drop",
        near_duplicates="ignore",
    )
    counts = json.loads((out / "summary.json").read_text())["counts"]
    # Easy-to-hard reference, section 1: MATH500 by level; validation has the same; train is the rest, 11,500 with the
    # duplicates (4) and the rows without an answer (2) that we leave out.
    assert [counts["test"][str(level)] for level in range(1, 6)] == [43, 90, 105, 128, 134]
    assert [counts["validation"][str(level)] for level in range(1, 6)] == [43, 90, 105, 128, 134]
    assert counts["train"]["none"] == 2
    assert 11_500 - 6 <= counts["train"]["all"] <= 11_500
    samples = read_jsonl(shared_data / "prm_samples.jsonl")
    records = {kind: [s["record"] for s in samples if s["format"] == kind] for kind in ("prm800k", "math-shepherd")}
    prm = run_prepare("prm", source="prm800k", problems=str(out), records=[str(jsonl("p.jsonl", records["prm800k"]))])
    found = {row.problem for row in read_stepwise(prm / "stepwise_full.jsonl")}
    assert found == _train_problems(records["prm800k"], shared_data)
    shepherd = run_prepare(
        "shepherd",
        source="shepherd",
        problems=str(out),
        records=[str(jsonl("s.jsonl", records["math-shepherd"]))],
        tasks=[],
        outside="easy",
    )
    assert len(read_stepwise(shepherd / "stepwise_easy.jsonl")) == 7


def _train_problems(records: list[dict[str, Any]], shared_data: Path) -> set[str]:
    train = {problem_key(row["problem"]) for row in read_jsonl(shared_data / "math_train.jsonl")}
    return {r["question"]["problem"] for r in records if problem_key(r["question"]["problem"]) in train}


def test_real_gsm8k(run_prepare: Write, shared_data: Path) -> None:
    """PROVENANCE: 7,473 and 1,319 rows, all answers whole numbers."""
    out = run_prepare(
        source="gsm8k",
        train=str(shared_data / "gsm8k_train.jsonl"),
        test=str(shared_data / "gsm8k_test.jsonl"),
        default_level=1,
        near_duplicates="ignore",
    )
    labels = read_labels(out, "full")
    assert len(labels) == 7473 + 1319
    assert all(label.answer.lstrip("-").isdigit() for label in labels.values())
    assert not any("<<" in label.solution for label in labels.values())


def test_real_gsm8k_by_steps(run_prepare: Write, shared_data: Path) -> None:
    """Lines with text before `####` in the test file, counted with awk."""
    out = run_prepare(
        source="gsm8k",
        train=str(shared_data / "gsm8k_train.jsonl"),
        test=str(shared_data / "gsm8k_test.jsonl"),
        step_levels=[2, 3, 4, 5],
        near_duplicates="ignore",
    )
    counts = json.loads((out / "summary.json").read_text())["counts"]
    assert [counts["test"][level] for level in "12345"] == [326, 371, 297, 175, 150]
    assert counts["test"]["easy"] == 326 + 371 + 297
