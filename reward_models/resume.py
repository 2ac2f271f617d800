"""Going on with a killed training run: only from a complete checkpoint of the very same run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from reward_models.contract import StepContract
from reward_models.records import Stepwise
from reward_models.settings import TrainSettings


def run_identity(
    base: str | Path,
    records: Sequence[Stepwise],
    held_out: Sequence[Stepwise],
    contract: StepContract,
    settings: TrainSettings,
) -> str:
    """Hash of what decides the weights; a checkpoint of anything else is not resumed."""
    neutral = {"save_steps", "save_total_limit", "logging_steps"}
    kept = {name: value for name, value in asdict(settings).items() if name not in neutral}
    digest = hashlib.sha256(json.dumps([str(base), contract.to_dict(), kept], sort_keys=True).encode())
    for record in (*records, *held_out):
        digest.update(json.dumps(record.to_row(), sort_keys=True).encode())
    return digest.hexdigest()


def checkpoint_to_resume(folder: Path, identity: str) -> str | None:
    """The newest complete checkpoint of the same run; checkpoints of another run are removed."""
    mark = folder / "identity"
    if folder.is_dir() and not (mark.is_file() and mark.read_text() == identity):
        shutil.rmtree(folder)
    if not mark.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(identity)
    # the Trainer writes trainer_state.json last, so a checkpoint without it was cut short
    complete = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None
