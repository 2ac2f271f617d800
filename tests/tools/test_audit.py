"""`e2h check --audit`: wrong verdicts that a second reading calls right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_e2h.checker.loose import loosely_equal
from rlhf_e2h.cli import main
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe

GOLD = {"a": ("16", 1), "b": ("20", 2), "c": ("7", 4), "d": ("x+1", 5), "e": ("3", 5)}
TEXTS = {  # of each problem: (text, finished)
    "a": [("So it is $16$.\n\n# Answer\n\nas above", True), ("# Answer\n\n16", True)],  # only the text says it
    "b": [("# Answer\n\n20kg", True), ("# Answer\n\n21", True)],  # a unit glued to its number
    "c": [("# Answer\n\n8", True), ("So it is \\boxed{7}", False)],  # wrong; unfinished
    "d": [("# Answer\n\n1+x", True), ("# Answer\n\nx-1", True)],
    "e": [("# Answer\n\n4", True), ("# Answer\n\n3", True)],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("audit")
    problems = [
        {"problem_id": name, "problem": f"Problem {name}?", "answer": gold, "level": level, "solution": "None."}
        for name, (gold, level) in GOLD.items()
    ]
    samples = [
        {"problem_id": name, "text": text, "finished": finished} for name in TEXTS for text, finished in TEXTS[name]
    ]
    train = [{**row, "problem_id": "t", "problem": "Another?"} for row in problems[:1]]
    for name, rows in (("test", problems), ("train", train), ("samples", samples)):
        (top / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = top / "recipe"
    recipe.mkdir()
    files = {
        "recipe.yaml": "name: audit\n",
        "1_prepare.yaml": f"stage: prepare\nsource: jsonl\ntrain: {top}/train.jsonl\ntest: {top}/test.jsonl\n",
        "2_import.yaml": f'stage: import\ndata: "@prepare"\nsamples: {top}/samples.jsonl\nformat: sections\n',
    }
    for name, text in files.items():
        (recipe / name).write_text(text)
    run_recipe(load_recipe(recipe, [f"runs={top / 'run'}"]))
    return top / "run"


# counted by hand; intervals are Wilson's, from tables
EXPECTED = """\
level   wrong verdicts   look right       of them, 95 %   problems   called right   missed at most
1                    1            1  100.0 % 20.7-100.0          1              1           50.0 %
2                    2            1     50.0 % 9.5-90.5          1              0          100.0 %
4                    1            0      0.0 % 0.0-79.3          0              0                -
5                    2            0      0.0 % 0.0-65.8          0              2            0.0 %
all                  6            2     33.3 % 9.7-70.0          2              3           40.0 %
"""


@pytest.mark.parametrize("graded", [False, True])
def test_a_run_folder(run: Path, graded: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if graded:  # verdicts of a stage in the place of those of now
        grade = 'stage: grade\nsamples: "@import"\ndata: "@prepare"\nlabels: full\npurpose: evaluation\n'
        (run.parent / "recipe" / "3_grade.yaml").write_text(grade)
        run_recipe(load_recipe(run.parent / "recipe", [f"runs={run}"]))
        capsys.readouterr()
    assert main(["check", "--audit", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(EXPECTED)
    assert "not read again: 1 unfinished answers" in said and "upper bound of the false negatives" in said
    rows = [json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()]
    assert [(row["problem_id"], row["gold"], row["answer"], row["second"], row["judged"]) for row in rows] == [
        ("a", "16", "as above", {"text": True, "answer": False, "loose": False}, None),
        ("b", "20", "20kg", {"text": False, "answer": True, "loose": True}, None),
    ]
    assert rows[0]["end"].startswith("So it is $16$.") and rows[0]["stage"].startswith("grade" if graded else "import")


def test_a_file_of_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "graded.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"gold": r"\frac12", "prediction": "0.5", "equal": False, "reason": "different"},  # a false negative
        {"gold": "3", "prediction": "3", "equal": True, "reason": "string"},
        {"gold": "3", "prediction": "4", "equal": True, "reason": "string"},  # a false positive
        {"gold": "3", "answer": "5", "correct": False, "reason": "different"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["check", "--audit", str(path), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 answers called right are another to Math-Verify" in said
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["line"], row["equal"], row["second"]) for row in found] == [
        (1, False, {"text": False, "answer": True, "loose": True}),
        (3, True, {"answer": False}),
    ]


def test_reference_answers_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded, labels = tmp_path / "graded.jsonl", tmp_path / "labels.jsonl"
    graded.write_text('{"problem_id": "p1", "sample_id": 0, "answer": "3", "correct": false, "reason": "different"}\n')
    labels.write_text('{"problem_id": "p1", "answer": "2", "level": 3}\n')
    assert main(["check", "--audit", str(graded), "--gold", str(labels)]) == 0
    assert "\n3                    1            0" in capsys.readouterr().out
    assert (tmp_path / "graded.audit.jsonl").read_text() == ""
    assert main(["check", "--audit", str(graded)]) == 2
    assert "graded.jsonl:1: no `gold`; give --labels" in capsys.readouterr().err
    assert main(["check", "--audit", str(tmp_path)]) == 2
    assert "no finished sample or grade stage in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("5", "5 apples", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac34", "3/4", True),
        ("1{,}000", "1000", True),
        (r"10\%", "0.1", True),
        ("0.1", r"10\%", True),
        (r"\text{Evelyn}", "evelyn.", True),
        ("3", "x = 3", True),
        ("(1,2)", "(1, 2)", True),
        (r"90^\circ", "90 degrees", True),
        (r"\$5.50", "5.5", True),
        ("5", "6", False),
        ("x", "5", False),
        ("2x", "2", False),
        (r"2\sqrt{3}", "2", False),
        ("(1,2)", "(2,1)", False),
        ("-3", "3", False),
        ("x^2", "x", False),
        ("5", "", False),
    ],
)
def test_loose_comparison(gold: str, answer: str, same: bool) -> None:
    assert loosely_equal(gold, answer) is same
