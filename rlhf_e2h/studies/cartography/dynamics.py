"""Training dynamics and data maps on disk, in the format of the public cartography code, which any trainer can write.

training_dynamics/dynamics_epoch_{i}.jsonl     {"guid": ..., "logits_epoch_{i}": [...], "gold": class index}
td_metrics.jsonl                               {"guid", "index", and the metrics of `measures`}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.records import iter_jsonl, write_jsonl
from rlhf_e2h.studies.cartography import measures
from rlhf_e2h.training.dynamics import FOLDER

TD_METRICS = "td_metrics.jsonl"
REGIONS_FILE = "regions.jsonl"  # the region of each item
_FILE = re.compile(r"dynamics_epoch_(\d+)\.jsonl")


@dataclass(frozen=True)
class Dynamics:
    """Probabilities and verdicts of N examples at E epochs, in the order of the first epoch's file."""

    guids: list[str]
    gold: NDArray[np.int64]
    probability: NDArray[np.float64]  # of the gold class
    right: NDArray[np.bool_]


def read_dynamics(folder: str | Path, burn_out: int | None = None) -> Dynamics:
    """The dynamics in a folder (the model's, or its training_dynamics); with `burn_out`, the first N epochs.

    Epoch numbers need not be contiguous and may start anywhere: their order counts.

    Raises:
        FileNotFoundError: no epoch file there.
        ValueError: a guid that is missing from an epoch or occurs twice in one (an appended file mixes two runs), a
            gold class that changes, fewer than two classes, logits that are not numbers; each with the guid's name.
    """
    folder = Path(folder)
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    found = sorted((int(m[1]), path) for path in folder.glob("*.jsonl") if (m := _FILE.fullmatch(path.name)))
    if not found:
        raise FileNotFoundError(
            f"{folder}: no dynamics_epoch_N.jsonl here; train with `dynamics: true`, or give another trainer's folder"
        )
    if burn_out is not None and not 1 <= burn_out <= len(found):
        raise ValueError(f"burn_out is {burn_out}; {folder} has {len(found)} epochs, so use 1 to {len(found)}")
    epochs = [_read_epoch(path, epoch) for epoch, path in found[:burn_out]]
    guids = list(epochs[0])
    for (number, path), epoch in zip(found, epochs, strict=False):
        _same_guids(epochs[0], epoch, path, number, found[0][0])
    gold_N = np.array([epochs[0][guid][1] for guid in guids])
    width = len(next(iter(epochs[0].values()))[0])
    probability, right = [], []
    for (_, path), epoch in zip(found, epochs, strict=False):
        for guid in guids:
            logits, gold = epoch[guid]
            if gold != epochs[0][guid][1] or len(logits) != width:
                raise ValueError(
                    f"{path}: guid {guid!r} has gold {gold} and {len(logits)} logits, in the first epoch "
                    f"{epochs[0][guid][1]} and {width}; the files are of different runs"
                )
        logits_NC = np.array([epoch[guid][0] for guid in guids], dtype=np.float64)
        probability.append(measures.gold_probabilities(logits_NC, gold_N.tolist()))
        right.append(logits_NC.argmax(axis=1) == gold_N)
    return Dynamics(guids, gold_N, np.stack(probability, axis=1), np.stack(right, axis=1))


def _read_epoch(path: Path, epoch: int) -> dict[str, tuple[list[float], int]]:
    field = f"logits_epoch_{epoch}"
    rows: dict[str, tuple[list[float], int]] = {}
    for row in iter_jsonl(path, required=("guid", field, "gold")):
        guid, logits, gold = str(row["guid"]), row[field], row["gold"]
        if guid in rows:
            raise ValueError(f"{path}: guid {guid!r} occurs twice; an appended file mixes two runs, so delete it")
        if not isinstance(logits, list) or len(logits) < 2:
            raise ValueError(f"{path}: guid {guid!r} has logits {logits!r}; a data map needs at least two classes")
        if not all(isinstance(value, int | float) for value in logits) or not np.isfinite(logits).all():
            raise ValueError(f"{path}: guid {guid!r} has logits {logits!r}; finite numbers are needed")
        if not isinstance(gold, int) or not 0 <= gold < len(logits):
            raise ValueError(f"{path}: guid {guid!r} has gold {gold!r} but {len(logits)} classes; count them from 0")
        rows[guid] = (logits, gold)
    if not rows:
        raise ValueError(f"{path}: no examples in this epoch; delete the file or train again")
    return rows


def _same_guids(first: Mapping[str, Any], other: Mapping[str, Any], path: Path, epoch: int, first_epoch: int) -> None:
    missing = [guid for guid in first if guid not in other]
    added = [guid for guid in other if guid not in first]
    if missing:
        raise ValueError(
            f"{path}: guid {missing[0]!r} is missing from epoch {epoch} ({len(missing)} in all); "
            "log every example at every epoch, or leave it out of all"
        )
    if added:
        raise ValueError(
            f"{path}: guid {added[0]!r} is in epoch {epoch} but not in epoch {first_epoch} ({len(added)} in all); "
            "log every example at every epoch, or leave it out of all"
        )


def write_td_metrics(path: Path, guids: Sequence[str], values: Mapping[str, NDArray[np.float64]]) -> None:
    """td_metrics.jsonl as the public code writes it; counts are whole numbers."""
    whole = ("correctness", "forgetfulness")
    rows = (
        {
            "guid": guid,
            "index": index,
            **{k: int(v[index]) if k in whole else float(v[index]) for k, v in values.items()},
        }
        for index, guid in enumerate(guids)
    )
    write_jsonl(path, rows)


def read_td_metrics(path: str | Path) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Guids and metrics of a td_metrics.jsonl, ours or the public code's."""
    path = Path(path)
    path = path / TD_METRICS if path.is_dir() else path
    rows = list(iter_jsonl(path, required=("guid", *measures.METRICS)))
    if not rows:
        raise ValueError(f"{path}: no examples; run `e2h map` again")
    guids = [str(row["guid"]) for row in rows]
    return guids, {name: np.array([row[name] for row in rows], dtype=np.float64) for name in measures.METRICS}
