"""From records to training targets: which tokens carry which label, and the loss on them. Kinds: `kinds.py`.

| kind | every_token | step_end |
|---|---|---|
| orm  | outcome on every solution token | outcome at the last step's end |
| prm  | each step's label on its tokens, separator included | each step's label at its end |
| oprm | as prm, with the outcome on the last step; records without step labels as orm | the same, at ends |

Source: Sun et al. 2024 (arXiv 2403.09472), section 3.3 and appendix C.1 (every token); the loss is their
sum(w * BCE) / (sum(w) + 1e-6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from reward_models.encode import Encoded
from reward_models.kinds import IGNORED, has_no_step_label, kind_of
from reward_models.records import Stepwise


def usable(record: Stepwise, kind: str) -> bool:
    """Whether a record holds a label that this kind of model trains on."""
    return kind_of(kind).usable(record)


def step_targets(record: Stepwise, kind: str) -> list[float]:
    """Target of each step (S,), IGNORED where there is none. Empty steps have no token and are not trained."""
    targets = kind_of(kind).step_targets(record)
    return [target if step.strip() else IGNORED for target, step in zip(targets, record.steps, strict=True)]


def token_targets(record: Stepwise, row: Encoded, kind: str, loss_on: str) -> NDArray[np.float32]:
    """Target of each token (T,), IGNORED on the prompt and on steps without label."""
    targets = step_targets(record, kind)
    if loss_on == "step_end":
        labels_T = np.full(len(row.ids), IGNORED, np.float32)
        first = len(targets) - 1 if kind_of(kind).is_whole(record) else 0
        for position, target in list(zip(row.positions, targets, strict=True))[first:]:
            if target != IGNORED:
                labels_T[position] = target
        return labels_T
    assert row.owners is not None, "every_token needs the owner of each token"
    by_step = np.array([*targets, IGNORED], np.float32)  # owner -1 picks the last entry
    labels_T = by_step[np.array(row.owners, np.int64)]
    for position, target in zip(row.positions, targets, strict=True):
        if target != IGNORED:  # a token that straddles two steps is the scoring position of the first
            labels_T[position] = target
    return labels_T


def record_weight(record: Stepwise) -> float:
    """The record's `weight` field, 1 without one; each of its tokens counts that much.

    Raises:
        ValueError: a weight that is not a finite number >= 0.
    """
    weight = record.extra.get("weight", 1.0)
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise ValueError(f"weight {weight!r} is not allowed; give a finite number >= 0, or leave the field out")
    return float(weight)


def mix(records: Sequence[Stepwise], orm_share: float | None, seed: int) -> list[int]:
    """Indices of the records an OPRM trains on, so that a share `orm_share` of them are outcome records.

    The kind that there is too much of is thinned at random. None keeps everything.
    """
    if orm_share is None:
        return list(range(len(records)))
    if not 0 < orm_share < 1:
        raise ValueError(
            f"orm_share is {orm_share}; it must lie between 0 and 1, or be null for all records as they are"
        )
    outcome = [index for index, record in enumerate(records) if has_no_step_label(record)]
    stepped = [index for index, record in enumerate(records) if not has_no_step_label(record)]
    if not outcome or not stepped:
        raise ValueError(f"{len(outcome)} outcome and {len(stepped)} step records cannot be mixed; an OPRM needs both")
    total = min(len(outcome) / orm_share, len(stepped) / (1 - orm_share))
    rng = np.random.default_rng(seed)
    kept = [
        rng.choice(group, size=max(1, min(len(group), round(total * share))), replace=False)
        for group, share in ((outcome, orm_share), (stepped, 1 - orm_share))
    ]
    return sorted(np.concatenate(kept).tolist())


def weighted_bce_sum(logits_BT: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of w * BCE(logit, label), a scalar in float32; IGNORED labels count nothing."""
    if not logits_BT.shape == labels_BT.shape == weights_BT.shape:
        raise ValueError(f"shapes differ: {logits_BT.shape}, {labels_BT.shape}, {weights_BT.shape}")
    trained = labels_BT != IGNORED
    losses = F.binary_cross_entropy_with_logits(logits_BT[trained].float(), labels_BT[trained], reduction="none")
    return (losses * weights_BT[trained]).sum()
