"""Labelled items and their hidden states on disk: what probe_features writes and the other stages here read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from reward_models.records import read_jsonl, write_jsonl

ITEMS, STATES = "items.jsonl", "states.safetensors"
Row = dict[str, Any]


def write_states(folder: Path, items: Sequence[Row], states_ND: np.ndarray) -> None:
    save_file({"states": states_ND}, folder / STATES)
    write_jsonl(folder / ITEMS, items)


def read_states(folder: Path) -> tuple[list[Row], np.ndarray]:
    """Items, with guid, problem_id, level, kind (steps or outcomes), label, rating, text, ..., and their states (N, D).

    Raises:
        FileNotFoundError: not the output of a probe_features stage.
        ValueError: items and states are not as many.
    """
    items = read_jsonl(folder / ITEMS, required=("guid", "problem_id", "level", "kind", "label", "rating"))
    states_ND = load_file(folder / STATES)["states"]
    if len(items) != len(states_ND):
        raise ValueError(f"{folder}: {len(items)} items and {len(states_ND)} states; run its stage again")
    return items, states_ND
