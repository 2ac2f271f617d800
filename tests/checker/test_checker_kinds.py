"""Verdicts kind by kind on four tables that `e2h check` reads too."""

import json
from pathlib import Path

import pytest

from rlhf_e2h.checker import CheckerPool

ROWS = [
    json.loads(line)
    for name in ("kinds.jsonl", "math_answers.jsonl", "mixed.jsonl", "unseen.jsonl")
    for line in (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def pool():
    with CheckerPool(timeout=5.0) as pool:
        yield pool


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in ROWS}))
def test_kind(pool, kind):
    rows = [row for row in ROWS if row["kind"] == kind]
    assert len(rows) >= 10
    verdicts = pool.check([(row["gold"], row["prediction"]) for row in rows])
    assert [(row, v) for row, v in zip(rows, verdicts, strict=True) if v.equal != row["expected"]] == []
