"""40 real MATH problems in the layout of the full data, and step labels and rewritten solutions made from them.

The files have the names and formats of the public sets (MATH, PRM800K, MetaMATH, Math-Shepherd), so the recipe reads
them through the same loaders. Their labels say nothing about mathematics: the reference solution is right, "No." wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reward_models.records import write_jsonl
from rlhf_e2h.data.files import iter_rows
from rlhf_e2h.data.levels import LEVELS, parse_level
from rlhf_e2h.data.math import last_boxed
from rlhf_e2h.data.steps import solution_steps
from rlhf_e2h.records import Row
from rlhf_e2h.runner.config import ConfigError

TRAIN, TEST = 5, 3  # problems of each level from the two sides of MATH: 40 together
LONGEST = 500  # characters of problem and solution together
ANSWERS = ("2", "3", "4", "5")  # few, so that a model that guesses is right often enough for reward models to learn


def tiny_data(source: Path, out: Path) -> tuple[Path, list[str]]:
    """Write the small data sets into `out`; returns it and the problem texts.

    All answers are in `ANSWERS`, so that a model that guesses among them is sometimes right.

    Args:
        source: folder with math_train.jsonl and math_test.jsonl.

    Raises:
        FileNotFoundError: the folder does not have them.
        ConfigError: it has too few problems that fit.
    """
    sides = {}
    for side, per_level in (("train", TRAIN), ("test", TEST)):
        file = source / f"math_{side}.jsonl"
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; model=tiny takes 40 problems of real MATH: "
                "set E2H_DATA (or math=FOLDER) to the folder with math_train.jsonl and math_test.jsonl"
            )
        sides[side] = _pick(file, per_level)
    train, test = sides["train"], sides["test"]
    for index, row in enumerate(test):  # two of each level are the test set, the third one is for validation
        row["in_math500"] = index % TEST != 0
    write_jsonl(out / "math_train.jsonl", train)
    write_jsonl(out / "math_test.jsonl", test)
    for phase, rows in (("phase1", train[::2]), ("phase2", train[1::2])):
        write_jsonl(out / f"{phase}_train.jsonl", map(_prm800k, rows))
    write_jsonl(out / "metamath.jsonl", [_metamath(row, number) for row in train for number in range(2)])
    write_jsonl(out / "shepherd.jsonl", map(_shepherd, train))
    return out, [row["problem"] for row in [*train, *test]]


def _pick(file: Path, per_level: int) -> list[Row]:
    picked: dict[int, list[Row]] = {level: [] for level in LEVELS}
    for row in iter_rows(file):
        level = parse_level(row.fields.get("level"))
        problem, solution = row.text("problem"), row.text("solution")
        answer = last_boxed(solution) or ""
        fits = level is not None and answer in ANSWERS and len(problem + solution) <= LONGEST
        # One subject: the paper's split takes validation problems by level and subject.
        if fits and level and row.fields.get("subject", "Algebra") == "Algebra" and len(picked[level]) < per_level:
            picked[level].append(dict(row.fields))
    missing = [level for level, rows in picked.items() if len(rows) < per_level]
    if missing:
        raise ConfigError(
            f"{file}: too few short algebra problems with the answers {', '.join(ANSWERS)} at levels {missing}; "
            "model=tiny needs the full MATH files"
        )
    return [row for rows in picked.values() for row in rows]


def _prm800k(row: Row) -> Row:
    texts = _steps(row["solution"])
    texts[-1] += f"\n\n# Answer\n\n{last_boxed(row['solution'])}"
    steps = [
        {
            "completions": [{"text": text, "rating": 1}, {"text": "No.", "rating": -1}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for text in texts
    ]
    return {"question": {"problem": row["problem"]}, "label": {"steps": steps, "finish_reason": "solution"}}


def _steps(solution: str) -> list[str]:
    return solution_steps(solution) or [solution]


def _metamath(row: Row, number: int) -> Row:
    response = f"{row['solution']}\nThe answer is: {last_boxed(row['solution'])}"
    query = f"{row['problem']} ({number})"
    return {"type": "MATH_Rephrased", "query": query, "original_question": row["problem"], "response": response}


def _shepherd(row: Row) -> Row:
    marks: Sequence[str] = ("ки", "+", "-")
    solution, answer = " ".join(row["solution"].split()), last_boxed(row["solution"])

    def text(first: str, second: str) -> str:
        return f"{row['problem']} Step 1: {solution} {first}\nStep 2: The answer is: {answer} {second}"

    return {"input": text(marks[0], marks[0]), "label": text(marks[1], marks[2]), "task": "MATH"}
