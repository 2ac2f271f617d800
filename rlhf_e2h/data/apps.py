"""APPS (Hendrycks et al. 2021, arXiv 2105.09938): its rows as problems, and its tests as labels.

Introductory problems are level 1 (easy), interview 4 and competition 5 (hard): so the firewall, the stages and the
report treat them as they treat MATH. The "answer" of a problem is its tests in JSON, the "solution" a program behind
the answer mark. Tests are labels: those of hard problems are sealed.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_models.records import BadRecord
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.files import Row, iter_rows, saved_to_disk
from rlhf_e2h.data.intake import NO_ANSWER, NO_LEVEL, Intake
from rlhf_e2h.data.sources import Source
from rlhf_e2h.prompts import SECTIONS

LEVEL_OF = {"introductory": 1, "interview": 4, "competition": 5}
_MARK = '{"inputs"'  # what the JSON of tests begins with


@dataclass(frozen=True)
class Tests:
    """Inputs and expected outputs of one problem: texts of standard input and output, or arguments and results.

    `function` names what is called with the arguments; None for programs that read standard input.
    """

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    function: str | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.outputs):
            raise ValueError(f"{len(self.inputs)} inputs and {len(self.outputs)} outputs; give one output an input")
        if self.function is not None and (not self.function.isidentifier() or keyword.iskeyword(self.function)):
            raise ValueError(f"function name {self.function!r} is not a name of Python")

    def to_json(self) -> str:
        named = {"function": self.function} if self.function else {}
        return json.dumps({"inputs": self.inputs, "outputs": self.outputs, **named}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Tests:
        row = json.loads(text)
        return cls(tuple(row["inputs"]), tuple(row["outputs"]), row.get("function"))


def is_tests(label: str) -> bool:
    """Whether the answer of a label is a set of tests (and not mathematics)."""
    return label.startswith(_MARK)


def program_of(row: Mapping[str, Any]) -> str | None:
    """The program in a finished sample, exactly as it was written; the reader of answers would look for mathematics."""
    return SECTIONS.section_answer(row["text"]) if row["finished"] else None


def program_solution(program: str) -> str:
    """A program as a policy should write it: the answer section alone."""
    return SECTIONS.solution([], program.strip())


def read_apps(rows: Iterable[Row], origin: str, intake: Intake) -> Iterator[Example]:
    """Examples from rows with `question`, `difficulty`, `input_output` and `solutions` (JSON texts, as on the hub).

    A row without tests or, on the train side, without a solution counts as one without answer. Of several solutions
    the shortest is taken.

    Raises:
        BadRecord: a field is missing or not what APPS has, or a flaw that `intake` does not let pass.
    """
    for index, row in enumerate(rows):
        level = _level(row, intake)
        if level is None and not intake.passes(NO_LEVEL, row.where, "the difficulty is unknown"):
            continue
        tests, programs = _tests(row), _list(row, "solutions")
        lacking = "no tests" if not tests or not tests.inputs else "no solution" if not programs else ""
        if lacking == "no solution" and origin == "test":
            lacking = ""
        if (tests is None or lacking) and not intake.passes(NO_ANSWER, row.where, f"the problem has {lacking}"):
            continue
        problem_id = f"apps-{origin}-{row.fields.get('problem_id', f'{index:04d}')}"
        if tests is not None and intake.is_new(problem_id, row.where):
            solution = program_solution(min(programs, key=len)) if programs else ""
            subject = str(row.fields.get("difficulty") or "")
            question = _question(row, tests)
            yield Example(problem_id, question, level, subject, tests.to_json(), solution, "apps", origin)


def _level(row: Row, intake: Intake) -> int | None:
    difficulty = row.fields.get("difficulty")
    if difficulty in (None, ""):
        return intake.level(row.fields.get("level"), row.where)
    if difficulty not in LEVEL_OF:
        raise BadRecord(f"{row.where}: difficulty {difficulty!r} is not allowed; use one of {', '.join(LEVEL_OF)}")
    return LEVEL_OF[difficulty]


def _question(row: Row, tests: Tests) -> str:
    """The text with what APPS's own prompts add: the code to start from, and how input comes."""
    parts = [row.text("question")]
    starter = row.fields.get("starter_code")
    if isinstance(starter, str) and starter.strip():
        parts.append(starter.strip())
    parts.append(f"Write the function {tests.function}." if tests.function else "Read standard input.")
    return "\n\n".join(parts)


def _tests(row: Row) -> Tests | None:
    value = _parsed(row, "input_output")
    if not value:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), list):
        raise BadRecord(f"{row.where}: input_output must hold the lists 'inputs' and 'outputs'")
    try:
        return Tests(tuple(value["inputs"]), tuple(value.get("outputs", ())), value.get("fn_name"))
    except ValueError as error:
        raise BadRecord(f"{row.where}: {error}") from None


def _list(row: Row, name: str) -> list[str]:
    value = _parsed(row, name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRecord(f"{row.where}: {name} must be a list of programs")
    return [item for item in value if item.strip()]


def _parsed(row: Row, name: str) -> Any:
    value = row.fields.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except json.JSONDecodeError as error:
        raise BadRecord(f"{row.where}: {name} is not JSON ({error.msg} at column {error.colno})") from None


def iter_apps(place: Path, split: str = "train") -> Iterator[Row]:
    """Rows of one side of APPS: a file (JSON Lines or Parquet), or the original folder.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without problems.
    """
    saved = place.is_dir() and saved_to_disk(place)
    return iter_original(place) if place.is_dir() and not saved else iter_rows(place, split)


def iter_original(folder: Path) -> Iterator[Row]:
    """Rows of the original layout: a folder a problem, with question.txt and input_output, solutions, metadata (.json).

    Raises:
        FileNotFoundError: no such problem folder below `folder`.
    """
    questions = sorted(folder.rglob("question.txt"))
    if not questions:
        raise FileNotFoundError(f"{folder}: no question.txt below this folder; give the folder of one side of APPS")
    for question in questions:
        place = question.parent
        fields: dict[str, Any] = {"problem_id": place.name, "question": question.read_text(encoding="utf-8")}
        for name in ("input_output", "solutions"):
            file = place / f"{name}.json"
            fields[name] = file.read_text(encoding="utf-8") if file.is_file() else None
        metadata = place / "metadata.json"
        if metadata.is_file():
            fields["difficulty"] = json.loads(metadata.read_text(encoding="utf-8")).get("difficulty")
        starter = place / "starter_code.py"
        fields["starter_code"] = starter.read_text(encoding="utf-8") if starter.is_file() else None
        yield Row(str(place), fields)


SOURCE = Source(
    "apps",
    problems=lambda rows, origin, intake, settings: read_apps(rows, origin, intake),
    rows=iter_apps,
    in_steps=False,  # a program is one step
    counts=(5_000, 0, 5_000),
)
