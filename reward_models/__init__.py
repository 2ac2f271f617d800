"""Outcome, process and combined reward models: train, score, rerank, serve, export.

The names below load on first use, so that the pure parts (aggregate, voting, metrics) cost no import of torch. `train`
is not among them, since the module of that name would shadow it: `from reward_models.train import train`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_models.contract import StepContract
    from reward_models.records import Stepwise
    from reward_models.rerank import Reranker
    from reward_models.score import Scorer, StepScores
    from reward_models.train import TrainSettings

_HOME = {
    "StepContract": "contract",
    "Stepwise": "records",
    "Reranker": "rerank",
    "Scorer": "score",
    "StepScores": "score",
    "TrainSettings": "train",
}

__all__ = ["Reranker", "Scorer", "StepContract", "StepScores", "Stepwise", "TrainSettings"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reward_models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"reward_models.{_HOME[name]}"), name)
