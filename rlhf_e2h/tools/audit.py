"""`e2h check --audit`: verdicts "wrong" of finished answers that a second reading calls right, for a person to judge.

The second reading is Math-Verify on the whole text, in which it finds the answer itself, Math-Verify on the extracted
answer, and a loose comparison of the two answers. What any of them calls right may be a false negative of the checker
or of the extraction, so their number is an upper bound.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reward_models.records import BadRecord, read_jsonl, write_jsonl
from rlhf_e2h.checker.audit import SecondGraderPool
from rlhf_e2h.checker.command import Reader
from rlhf_e2h.checker.loose import loosely_equal
from rlhf_e2h.checker.progress import tracked
from rlhf_e2h.data import firewall
from rlhf_e2h.data.apps import is_tests
from rlhf_e2h.records import Row
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.run_files import read_done
from rlhf_e2h.stats.intervals import wilson

READINGS = ("text", "answer", "loose")
TAIL = 600  # characters of a solution that a person sees


def run(args: argparse.Namespace) -> int:
    """Print how many wrong verdicts look right, by level, and write them to a file."""
    if args.audit.is_dir():
        rows, out = _of_run(args.audit, args), args.audit / "audit.jsonl"
    else:
        rows, out = list(_of_file(args.audit, args)), args.audit.with_suffix(".audit.jsonl")
    found = audit(rows, args.workers, args.timeout)
    out = args.out or out
    write_jsonl(out, found)
    print("\n".join(summary(rows, found)))
    print(f"{out}: these {len(found)} rows with what each reading says; judge them by hand")
    return 0


def audit(rows: Sequence[Row], workers: int = 1, timeout: float = 2.0) -> list[Row]:
    """The finished rows whose verdict a second reading contradicts.

    Args:
        rows: gold, answer (or None), text (or None), equal, reason, finished, level; other fields pass through.

    Returns the wrong verdicts that a reading calls right (`second` says of each reading what it says), then the right
    ones that Math-Verify, given the same answer, calls wrong.
    """
    wrong = [row for row in rows if not row["equal"] and row["finished"]]
    right = [row for row in rows if row["equal"] and row["finished"]]
    by_text = _ask("text", wrong, lambda row: row["text"], workers, timeout)
    by_answer = _ask("answer", [*wrong, *right], lambda row: row["answer"], workers, timeout)
    suspects = []
    for row, text, answer in zip(wrong, by_text, by_answer, strict=False):
        loose = row["answer"] is not None and loosely_equal(row["gold"], row["answer"])
        second = dict(zip(READINGS, (text, answer, loose), strict=True))
        if any(second.values()):
            suspects.append(_shown(row, second))
    contradicted = [
        _shown(row, {"answer": False}) for row, same in zip(right, by_answer[len(wrong) :], strict=True) if not same
    ]
    return [*suspects, *contradicted]


def _ask(
    reading: Any, rows: Sequence[Row], what: Callable[[Row], str | None], workers: int, timeout: float
) -> list[bool]:
    with SecondGraderPool(workers, timeout, reading) as pool:
        verdicts = pool.stream((row["gold"], what(row)) for row in rows)
        return [verdict.equal for verdict in tracked(verdicts, len(rows), f"Math-Verify on the {reading}", "rows")]


def _shown(row: Row, second: dict[str, bool]) -> Row:
    kept = {name: value for name, value in row.items() if name not in ("text", "finished")}
    return {**kept, "second": second, "end": (row["text"] or "")[-TAIL:], "judged": None}


def summary(rows: Sequence[Row], found: Sequence[Row]) -> list[str]:
    """The table by level, and what it does and does not say."""
    wrong = [row for row in rows if not row["equal"] and row["finished"]]
    right = [row for row in rows if row["equal"] and row["finished"]]
    suspects = [row for row in found if not row["equal"]]
    levels = sorted({row["level"] for row in rows}, key=lambda level: (level is None, level))
    lines = ["level   wrong verdicts   look right       of them, 95 %   problems   called right   missed at most"]
    for level in [*levels, *(["all"] if len(levels) > 1 else [])]:
        groups = (_of_level(group, level) for group in (wrong, suspects, right))
        lines.append(_line(level, *groups))
    unfinished = sum(not row["finished"] for row in rows)
    by = ", ".join(f"{name} {sum(row['second'][name] for row in suspects)}" for name in READINGS)
    return [
        *lines,
        f"right by reading: {by} (text: Math-Verify on the whole solution; answer: on the extracted one; loose: value, "
        "units and case)",
        f"not read again: {unfinished} unfinished answers",
        f"{len(found) - len(suspects)} answers called right are another to Math-Verify",
        "Until a person has judged them, the answers that look right are an upper bound of the false negatives; "
        "intervals take samples of one problem as independent",
    ]


def _of_level(rows: Iterable[Row], level: Any) -> list[Row]:
    return [row for row in rows if level in ("all", row["level"])]


def _line(level: Any, wrong: list[Row], suspects: list[Row], right: list[Row]) -> str:
    rate, missed = "-", "-"
    if wrong:
        of = wilson(len(suspects), len(wrong))
        rate = f"{100 * of.estimate:.1f} % {100 * of.low:.1f}-{100 * of.high:.1f}"
    if right or suspects:
        missed = f"{100 * len(suspects) / (len(suspects) + len(right)):.1f} %"
    problems = len({row.get("problem_id") for row in suspects})
    name = "-" if level is None else str(level)
    return f"{name:<5} {len(wrong):>16} {len(suspects):>12} {rate:>19} {problems:>10} {len(right):>14} {missed:>16}"


def _of_file(path: Path, args: argparse.Namespace) -> Iterator[Row]:
    """Rows of `e2h check -o`, or of a grade stage."""
    labels: dict[str, Row] = {}
    if args.labels:
        labels = {row["problem_id"]: row for row in Reader(args.labels, ("problem_id", "answer"), False)}
    reader = Reader(path, (), args.skip_bad)
    for row in reader:
        label = labels.get(str(row.get("problem_id")), {})
        gold = row.get("gold") or label.get("answer")
        if gold is None:
            raise BadRecord(
                f"{reader.where()}: no `gold`; give --labels with `problem_id` and `answer` of each problem"
            )
        verdict = row.get("equal", row.get("correct"))
        if not isinstance(verdict, bool):
            raise BadRecord(f"{reader.where()}: no `equal` or `correct` that is true or false; grade the file first")
        yield _row(row, gold, verdict, row.get("level", label.get("level")), {"line": reader.line})


def _row(row: Row, gold: str, equal: bool, level: Any, where: Row) -> Row:
    answer = row["prediction"] if "prediction" in row else row.get("answer")
    kept: Row = {name: row[name] for name in ("problem_id", "sample_id") if name in row}
    found = {"gold": gold, "answer": answer, "text": row.get("text", answer), "finished": row.get("finished", True)}
    return {**where, **kept, "level": level, **found, "equal": equal, "reason": row.get("reason")}


def _of_run(run_folder: Path, args: argparse.Namespace) -> list[Row]:
    """All samples of a run folder that have a reference answer: graded ones with their verdict, others graded now.

    Raises:
        ConfigError: the run has no samples, or they are programs.
    """
    from rlhf_e2h.samples.bank import grade

    records = {f"{done['name']}/{done['identity']}": done for done in map(read_done, _folders(run_folder)) if done}
    graded = {name for name, done in records.items() if done["stage"] == "grade"}
    read = {upstream for name in graded for upstream in records[name]["upstream"]}
    plain = {name for name, done in records.items() if done["stage"] in ("sample", "import")} - read
    rows: list[Row] = []
    for name in sorted(graded | plain):
        data = _prepared(run_folder, records, name)
        labels = firewall.read_labels(run_folder / data, "full")
        levels = {
            p["problem_id"]: p["level"] for s in firewall.SPLITS for p in firewall.read_problems(run_folder / data, s)
        }
        file = next(iter((run_folder / name).glob("graded.jsonl" if name in graded else "samples.jsonl")))
        found = read_jsonl(file, required=("problem_id", "sample_id", "text", "answer", "finished"))
        for row in found if name in graded else grade(found, labels):
            gold = labels[row["problem_id"]].answer
            if not is_tests(gold):  # a program was run; there is nothing to read again
                rows.append(_row(row, gold, row["correct"], levels.get(row["problem_id"]), {"stage": name}))
    if not rows:
        raise ConfigError(f"{run_folder}: no finished sample or grade stage in it; give a run folder, or a graded file")
    return rows


def _folders(run_folder: Path) -> list[Path]:
    return sorted(file.parent for file in run_folder.glob("[!.]*/*/done.json"))


def _prepared(run_folder: Path, records: dict[str, Row], name: str) -> str:
    """The prepare stage, among all that a stage was made from, that has the problems which it samples."""
    for upstream in records[name]["upstream"]:
        if (run_folder / upstream / firewall.EASY_LABELS).is_file():
            return upstream
    raise ConfigError(f"{run_folder / name}: the prepare stage that it reads is not in the run folder")
