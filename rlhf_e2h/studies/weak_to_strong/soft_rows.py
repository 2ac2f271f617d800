"""Solutions with soft labels, as a model reads them: token ids, where they are judged, and the probabilities there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.contract import StepContract
from reward_models.dataset import TokenRows
from reward_models.encode import encode
from reward_models.kinds import IGNORED
from reward_models.lengths import losses
from rlhf_e2h.runner.config import ConfigError

log = logging.getLogger(__name__)
Item = tuple[str, list[str]]  # problem, steps of a solution
Labels = list[NDArray[np.floating]]  # of each solution: P(right) of every step (S,), or of its outcome (1,)


def soft_rows(
    tokenizer: Any, contract: StepContract, items: Sequence[Item], labels: Labels, max_length: int
) -> TokenRows:
    """Rows of all solutions that have a label and fit `max_length` tokens; labels that are NaN are left out.

    A label stands at the token where it is judged, all others are `IGNORED`.

    Raises:
        ConfigError: there is none.
        ValueError: most are too long.
    """
    encoded = encode(tokenizer, contract, [problem for problem, _ in items], [steps for _, steps in items])
    ids, targets, sources = [], [], []
    for place, (row, label_S) in enumerate(zip(encoded, labels, strict=True)):
        # an outcome is read where the last step is
        known = [(p, float(v)) for p, v in zip(row.positions[-len(label_S) :], label_S, strict=True) if not np.isnan(v)]
        if len(row.ids) <= max_length and known:
            label_T = np.full(len(row.ids), IGNORED, np.float32)
            label_T[[position for position, _ in known]] = [label for _, label in known]
            ids.append(np.array(row.ids, np.int32))
            targets.append(label_T)
            sources.append(place)
    if not ids:
        raise ConfigError(
            f"of {len(items)} solutions none has a label and at most {max_length} tokens; raise max_length"
        )
    too_long = sum(len(row.ids) > max_length for row in encoded)
    if found := losses(len(items), too_long, 0, "solutions", f"max_length {max_length}"):
        log.warning("%s", found)
    return TokenRows(ids, targets, [1.0] * len(ids), tokenizer.pad_token_id, sources)
