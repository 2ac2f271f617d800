"""Training dynamics on disk, in the format of the public cartography code; `studies.cartography` reads it.

    training_dynamics/dynamics_epoch_{i}.jsonl     {"guid": ..., "logits_epoch_{i}": [...], "gold": class index}

A reward model's logit of "right" is written as logits [0, logit]: class 1 is right, class 0 wrong. Beside the folder,
our own stages write items.jsonl (guid, problem_id, level, and more), which maps do not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from reward_models.records import write_jsonl

FOLDER = "training_dynamics"
ITEMS = "items.jsonl"


def epoch_file(folder: Path, epoch: int) -> Path:
    return folder / f"dynamics_epoch_{epoch}.jsonl"


def write_epoch(
    folder: Path, epoch: int, guids: Iterable[str], logits: Iterable[Sequence[float]], gold: Iterable[int]
) -> None:
    """One epoch's file; an older one of the same epoch is replaced, so that a resumed run does not mix two."""
    rows = zip(guids, logits, gold, strict=True)
    write_jsonl(
        epoch_file(folder, epoch),
        ({"guid": guid, f"logits_epoch_{epoch}": list(row), "gold": int(label)} for guid, row, label in rows),
    )
