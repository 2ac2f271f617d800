"""The bank of a finished run as one compressed file: what was sampled, whether it is right, and what reward models say.

    python recipes/gsm8k-0.5b/bank/make.py runs/gsm8k-0.5b bank.jsonl.gz

Problems are named, not copied: `gsm8k-test-00012` is row 12 of GSM8K's test file. `answer_class` numbers the answers of
a problem that the checker calls equal, -1 for none.
"""

from __future__ import annotations

import gzip
import json
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from reward_models.records import read_jsonl
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.data.firewall import read_labels, read_problems
from rlhf_e2h.samples.bank import grade


def latest(run: Path, stage: str) -> Path:
    """The output folder of the last run of a stage."""
    done = max((run / stage).glob("*/done.json"), key=lambda file: json.loads(file.read_text())["finished"])
    return done.parent


def main(run: Path, out: Path) -> None:
    data = latest(run, "prepare")
    levels = {row["problem_id"]: row["level"] for row in read_problems(data, "test")}
    rows = grade(read_jsonl(latest(run, "bank") / "samples.jsonl"), read_labels(data, "full", ("test",)))
    classes = classes_of(rows)
    scored = {}
    for file in sorted((run / "rerank").glob("*/scored_*.jsonl"), key=lambda file: file.stat().st_mtime):
        found = read_jsonl(file)
        if [row["text"] for row in found] == [row["text"] for row in rows]:
            scored[file.stem.removeprefix("scored_")] = found  # the last one of a name
        else:
            print(f"{file}: scores of other samples, left out", file=sys.stderr)
    with gzip.GzipFile(out, "wb", mtime=0) as file:
        for index, row in enumerate(rows):
            steps = {name: [round(p, 4) for p in found[index]["step_scores"]] for name, found in sorted(scored.items())}
            kept = {key: row[key] for key in ("problem_id", "sample_id", "text", "answer", "finished", "correct")}
            record = {**kept, "answer_class": classes[index], "level": levels[row["problem_id"]], "step_scores": steps}
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def classes_of(rows: list[dict[str, Any]]) -> list[int]:
    """`answer_class` of each row; the samples of a problem follow each other."""
    with CheckerPool() as pool:
        groups = groupby(rows, key=itemgetter("problem_id"))
        return [number for _, of in groups for number in answer_classes([row["answer"] for row in of], pool)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
