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
    items = read_items(folder)
    states_ND = load_file(folder / STATES)["states"]
    if len(items) != len(states_ND):
        raise ValueError(f"{folder}: {len(items)} items and {len(states_ND)} states; run its stage again")
    return items, states_ND


def read_items(folder: Path) -> list[Row]:
    """The items alone, which a probe_features stage without a model writes as well."""
    return read_jsonl(folder / ITEMS, required=("guid", "problem_id", "level", "kind", "label", "rating"))


def in_both(
    first: tuple[list[Row], np.ndarray], second: tuple[list[Row], np.ndarray]
) -> tuple[list[Row], tuple[np.ndarray, np.ndarray], int]:
    """The items that two models read, the states of each, and how many one of them alone read.

    Tokenizers differ, so a problem may be too long for one model only.
    """
    places = [{item["guid"]: place for place, item in enumerate(items)} for items, _ in (first, second)]
    common = [guid for guid in places[0] if guid in places[1]]
    first_ND, second_ND = (
        states_ND[[where[guid] for guid in common]]
        for where, (_, states_ND) in zip(places, (first, second), strict=True)
    )
    alone = sum(len(where) - len(common) for where in places)
    return [first[0][places[0][guid]] for guid in common], (first_ND, second_ND), alone
