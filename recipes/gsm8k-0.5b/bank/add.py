"""Add the step scores of one more reward model to the bank.

    python recipes/gsm8k-0.5b/bank/add.py NAME MODEL GSM8K_TEST_FILE recipes/gsm8k-0.5b/bank/bank.jsonl.gz

A problem `gsm8k-test-00012` is row 12 of the test file.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

from reward_models.score import Scorer
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.training.models import DTYPES
from rlhf_e2h.training.precision import sampling_dtype


def main(name: str, model: str, questions: Path, bank: Path) -> None:
    problems = [json.loads(line)["question"] for line in questions.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in gzip.decompress(bank.read_bytes()).splitlines()]
    items = [(problems[int(row["problem_id"].rsplit("-", 1)[1])], SECTIONS.split_steps(row["text"])) for row in rows]
    scorer = Scorer.from_pretrained(model, dtype=DTYPES[sampling_dtype(Path(model))])
    with gzip.GzipFile(bank.with_suffix(".new"), "wb", mtime=0) as file:
        for row, scored in zip(rows, scorer.score_stream(items), strict=True):
            row["step_scores"][name] = [round(p, 4) for p in scored.steps]
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    os.replace(bank.with_suffix(".new"), bank)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
