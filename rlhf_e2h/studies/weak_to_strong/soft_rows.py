"""Solutions with soft labels, as a model reads them: token ids, where they are judged, and the probabilities there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from reward_models.contract import StepContract
from reward_models.encode import encode
from rlhf_e2h.runner.config import ConfigError

Item = tuple[str, list[str]]  # problem, steps of a solution
Labels = list[NDArray[np.floating]]  # of each solution: P(right) of every step (S,), or of its outcome (1,)


class SoftRows(Dataset):
    """Rows of ids (T,) with the R tokens at which the solution is read and the soft label (R,) there."""

    def __init__(self, pad_id: int) -> None:
        self.ids: list[list[int]] = []
        self.positions: list[list[int]] = []
        self.labels: list[list[float]] = []
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (B, T) padded on the right; `rows`, `positions`, `labels` of all."""
        width = max(len(self.ids[index]) for index in indices)
        ids = [self.ids[index] + [self.pad_id] * (width - len(self.ids[index])) for index in indices]
        mask = [[1] * len(self.ids[index]) + [0] * (width - len(self.ids[index])) for index in indices]
        rows = [row for row, index in enumerate(indices) for _ in self.positions[index]]
        labels = [label for index in indices for label in self.labels[index]]
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "rows": torch.tensor(rows),
            "positions": torch.tensor([position for index in indices for position in self.positions[index]]),
            "labels": torch.tensor(labels, dtype=torch.float32),
        }


def soft_rows(
    tokenizer: Any, contract: StepContract, items: Sequence[Item], labels: Labels, max_length: int
) -> SoftRows:
    """Rows of all solutions that have a label and fit `max_length` tokens; labels that are NaN are left out.

    Raises:
        ConfigError: there is none.
    """
    encoded = encode(tokenizer, contract, [problem for problem, _ in items], [steps for _, steps in items])
    rows = SoftRows(tokenizer.pad_token_id)
    for row, label_S in zip(encoded, labels, strict=True):
        # an outcome is read where the last step is
        known = [(p, float(v)) for p, v in zip(row.positions[-len(label_S) :], label_S, strict=True) if not np.isnan(v)]
        if len(row.ids) <= max_length and known:
            rows.ids.append(row.ids)
            rows.positions.append([position for position, _ in known])
            rows.labels.append([label for _, label in known])
    if not len(rows):
        raise ConfigError(
            f"of {len(items)} solutions none has a label and at most {max_length} tokens; raise max_length"
        )
    return rows
