"""What a trainer's limit of tokens loses, on the stage's line."""

from __future__ import annotations

from collections.abc import Iterable

from reward_models.lengths import losses
from rlhf_e2h.config import ConfigError
from rlhf_e2h.losses import nonzero
from rlhf_e2h.runs import StageRun


def report_lengths(
    run: StageRun, lengths: Iterable[tuple[int, int]], max_length: int, what: str = "solutions"
) -> tuple[int, int]:
    """Count the rows that a trainer will leave out and cut, and add them to the run's `left_out` and `cut`.

    `lengths` are (tokens of the prompt, tokens in all) of each row. As TRL does it, a row whose prompt fills
    `max_length` is left out, and a longer one loses its end.

    Raises:
        ConfigError: most rows are left out.
    """
    rows = list(lengths)
    left_out = sum(prompt >= max_length for prompt, _ in rows)
    cut = sum(prompt < max_length < total for prompt, total in rows)
    try:
        found = losses(len(rows), left_out, cut, what, f"training.max_length={max_length}")
    except ValueError as error:
        raise ConfigError(f"{run.name}: {error}") from None
    if found:
        run.warn(found)
    lost = nonzero(left_out=left_out, cut=cut)
    run.finish(**{name: run.results.get(name, 0) + count for name, count in lost.items()})
    return left_out, cut
