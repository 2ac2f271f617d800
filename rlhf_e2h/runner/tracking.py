"""metrics.jsonl, which is complete, and what mirrors it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from rlhf_e2h.runner.mirrors import TABLE_ROWS, Mirrors


class Tracker:
    """Appends metrics to metrics.jsonl, and to the mirrors that a recipe asks for. A run is complete without them."""

    def __init__(self, folder: Path | None, mirrors: Mirrors | None = None) -> None:
        """Without a folder nothing is written: what all processes but the main one do."""
        self._file = (folder / "metrics.jsonl" if folder else Path(os.devnull)).open("a", encoding="utf-8")
        self._mirrors = mirrors or Mirrors()
        self._tables: dict[str, list[dict[str, Any]]] = {}

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Record numbers (or short texts) under their names; not-a-number becomes null."""
        row: dict[str, Any] = {} if step is None else {"step": step}
        for name, value in metrics.items():
            value = value.item() if hasattr(value, "item") else value
            row[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        mirrored = {key: value for key, value in row.items() if key != "step"}
        self._mirrors.each(lambda mirror: mirror.log(mirrored, step))

    def row(self, table: str, row: dict[str, Any]) -> None:
        """Add a row to a table of the mirrors, sent when the run ends; the stage keeps its own file of them."""
        rows = self._tables.setdefault(table, [])
        rows.append(row)
        del rows[:-TABLE_ROWS]

    def attach(self, record: dict[str, Any]) -> None:
        """Put the stage's manifest beside its settings in the mirrors."""
        self._mirrors.each(lambda mirror: mirror.attach(record))

    def close(self) -> None:
        self._file.close()
        for name, rows in self._tables.items():
            self._mirrors.each(lambda mirror, name=name, rows=rows: mirror.table(name, rows))  # type: ignore[misc]
        self._mirrors.each(lambda mirror: mirror.close())
