"""Preference rows of other tools as pairs of solutions: `chosen` and `rejected`, each text or messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_models.messages import is_conversation, last_exchange, text_of
from reward_models.records import BadRecord, iter_places


@dataclass(frozen=True)
class Pair:
    """Two solutions of one problem, the first the better one."""

    problem: str
    chosen: str
    rejected: str


def read_pairs(*paths: str | Path) -> list[Pair]:
    """Pairs from JSON Lines with `chosen`, `rejected`, and `problem` or `prompt` (or the prompt inside the messages).

    Raises:
        BadRecord: a row that is not a pair, as `file:line: reason`.
    """
    pairs = []
    for path in paths:
        for where, row in iter_places(path, required=("chosen", "rejected")):
            try:
                pairs.append(pair_of(row))
            except ValueError as error:
                raise BadRecord(f"{where}: {error}") from None
    return pairs


def pair_of(row: Mapping[str, Any]) -> Pair:
    """One pair.

    Raises:
        ValueError: no problem, a field of the wrong type, or equal solutions, which teach nothing.
    """
    prompt = next((row[name] for name in ("problem", "prompt", "question") if row.get(name) is not None), None)
    if prompt is None:
        if not is_conversation(row["chosen"]):
            raise ValueError(
                "no problem; give problem or prompt, or chosen and rejected as messages that begin with it"
            )
        prompt = row["chosen"]
    problem = last_exchange(prompt).problem if is_conversation(prompt) else text_of(prompt, "prompt")
    chosen, rejected = text_of(row["chosen"], "chosen"), text_of(row["rejected"], "rejected")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text; there is nothing to tell apart")
    return Pair(problem, chosen, rejected)
