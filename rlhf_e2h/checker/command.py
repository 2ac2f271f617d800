"""`e2h check`: compare the answers in a JSON Lines file, or list where a second grader disagrees."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, deque
from collections.abc import Iterator
from itertools import tee
from pathlib import Path
from typing import Any

from reward_models.records import BadRecord, write_jsonl
from rlhf_e2h.checker.pool import CheckerPool
from rlhf_e2h.checker.progress import tracked
from rlhf_e2h.checker.verdict import REASONS

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "cases", nargs="?", type=Path, help="rows with `gold` and `prediction` (answer or whole solution)"
    )
    what.add_argument(
        "--audit",
        type=Path,
        metavar="RUN",
        help="a run folder, or a graded file: wrong verdicts that a second reading calls right",
    )
    parser.add_argument(
        "-o", "--out", type=Path, help="write the rows with `equal` and `reason` (audit: those to judge)"
    )
    parser.add_argument(
        "--labels", "--gold", type=Path, metavar="FILE",
        help="for --audit of a file without `gold`: rows with `problem_id`, `answer`, perhaps `level`",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default 1)")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds for one comparison (default 2)")
    parser.add_argument("--cache", type=Path, help="keep workers' verdicts in this SQLite file between runs")
    parser.add_argument("--skip-bad", action="store_true", help="pass over lines that cannot be read, and count them")


def run(args: argparse.Namespace) -> int:
    """Returns the exit status: 0, or 2 for a bad file or option (the message is on standard error)."""
    try:
        return _check(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"e2h check: {error}", file=sys.stderr)
        return 2


def _check(args: argparse.Namespace) -> int:
    reader = Reader(args.cases, ("gold", "prediction"), args.skip_bad)
    tally = _Tally()
    with CheckerPool(args.workers, args.timeout, args.cache) as pool:
        graded = tracked(_graded(reader, pool), reader.lines(), "checking", "rows")
        if args.out:
            write_jsonl(args.out, (tally.add(row) for row in graded))
        else:
            deque((tally.add(row) for row in graded), maxlen=0)
    if args.out:
        print(f"wrote {args.out}")
    print("\n".join(tally.summary(reader.skipped)))
    return 0


def _graded(reader: Reader, pool: CheckerPool) -> Iterator[Row]:
    rows, again = tee(reader)
    verdicts = pool.stream((row["gold"], row["prediction"]) for row in again)
    for row, verdict in zip(rows, verdicts, strict=True):
        yield {**row, "equal": verdict.equal, "reason": verdict.reason}


class Reader:
    """Rows of a file, checked; `skipped` counts the bad lines that `skip_bad` skipped."""

    def __init__(self, path: Path, texts: tuple[str, ...], skip_bad: bool) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the path of a JSON Lines file")
        self.path, self.texts, self.skip_bad = path, texts, skip_bad
        self.line = self.skipped = 0

    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def lines(self) -> int:
        with self.path.open("rb") as file:
            return sum(1 for _ in file)

    def __iter__(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for self.line, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    yield self._row(raw)
                except BadRecord:
                    if not self.skip_bad:
                        raise
                    self.skipped += 1

    def _row(self, raw: bytes) -> Row:
        try:
            row = json.loads(raw.decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadRecord(f"{self.where()}: not a line of JSON ({error})") from None
        if not isinstance(row, dict):
            raise BadRecord(f"{self.where()}: expected a JSON object, found {type(row).__name__}")
        for name in self.texts:
            if name not in row:
                raise BadRecord(f"{self.where()}: missing field {name!r}; the row has {sorted(row)}")
            if not isinstance(row[name], str) and not (row[name] is None and name == "prediction"):
                raise BadRecord(f"{self.where()}: field {name!r} is {row[name]!r}; it must be text")
        if not isinstance(row.get("expected", True), bool):
            raise BadRecord(f"{self.where()}: field 'expected' is {row['expected']!r}; use true or false")
        return row


class _Tally:
    """Counts for the summary; rows with `contested` or category `adversarial` are counted apart."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.equal = 0
        self.outcomes: dict[str, Counter[tuple[bool, bool]]] = {}

    def add(self, row: Row) -> Row:
        self.reasons[row["reason"]] += 1
        self.equal += row["equal"]
        if "expected" in row:
            group = "contested" if row.get("contested") else "core"
            group = "adversarial" if row.get("category") == "adversarial" else group
            self.outcomes.setdefault(group, Counter())[row["expected"], row["equal"]] += 1
        return row

    def summary(self, skipped: int) -> list[str]:
        total = sum(self.reasons.values())
        reasons = ", ".join(f"{reason} {self.reasons[reason]}" for reason in REASONS if self.reasons[reason])
        lines = [f"{total} rows, {self.equal} equal ({reasons or 'none'})"]
        if skipped:
            lines.append(f"{skipped} bad lines skipped")
        for group in ("core", "contested", "adversarial"):
            if group in self.outcomes:
                lines.append(_figures(group, self.outcomes[group]))
        return lines


def _figures(group: str, outcomes: Counter[tuple[bool, bool]]) -> str:
    right = outcomes[True, True] + outcomes[False, False]
    total = sum(outcomes.values())
    unequal = outcomes[False, True] + outcomes[False, False]
    equal = outcomes[True, True] + outcomes[True, False]
    return (
        f"{group}: accuracy {right / total:.4f} ({right}/{total}), "
        f"false positives {_rate(outcomes[False, True], unequal)}, "
        f"false negatives {_rate(outcomes[True, False], equal)}"
    )


def _rate(count: int, of: int) -> str:
    return f"{count}/{of} ({100 * count / of:.2f} %)" if of else "0/0"
