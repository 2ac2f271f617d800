"""Writing fixture files, and running `prepare` on them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.store import Resolved
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages import prepare


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[str, Iterable[Any]], Path]:
    def write(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def run_prepare(tmp_path: Path) -> Callable[..., Path]:
    """Runs the stage's own main with settings as keywords; returns its output folder, and keeps its `results`."""

    def run(out: str = "out", **settings: Any) -> Path:
        config = prepare.Config(**settings)
        folder = tmp_path / out
        folder.mkdir()
        named = [
            v
            for value in settings.values()
            for v in (value if isinstance(value, list) else [value])
            if isinstance(v, str)
        ]
        inputs = {str(value): [Resolved(Path(value), "")] for value in named}
        tracker = Tracker(folder)
        try:
            stage = StageRun("prepare", "prepare", folder, 0, tmp_path, tracker, inputs)
            prepare.main(config, stage)
            run.results = stage.results  # type: ignore[attr-defined]
        finally:
            tracker.close()
        return folder

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("E2H_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "math_train.jsonl").is_file():
        pytest.skip("real MATH rows are not here; set E2H_DATA to the folder with math_train.jsonl")
    return folder
