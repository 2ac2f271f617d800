"""Rows of your own (see own_rows.py): read as MATH is, but a row's own `answer` goes before a box in the solution."""

from __future__ import annotations

from rlhf_e2h.data.math import read_math
from rlhf_e2h.data.sources import Source

SOURCE = Source(
    "jsonl",
    problems=lambda rows, origin, intake, settings: read_math(rows, origin, intake, "jsonl", answer_field_first=True),
)
