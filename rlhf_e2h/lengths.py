"""What a trainer's limit of tokens loses, on the stage's line."""

from __future__ import annotations

from collections.abc import Iterable

from reward_models.lengths import check_losses
from rlhf_e2h.config import ConfigError
from rlhf_e2h.runs import StageRun


def report_lengths(
    run: StageRun, given: int, lengths: Iterable[int], max_length: int, what: str = "solutions"
) -> tuple[int, int]:
    """Count the rows that are left out and cut, and add them to the run's `left_out` and `cut`.

    Args:
        given: rows that the trainer was given.
        lengths: tokens of each row that it kept, before it cuts them at `max_length`.

    Raises:
        ConfigError: most rows are gone.
    """
    kept = list(lengths)
    left_out, cut = given - len(kept), sum(length > max_length for length in kept)
    try:
        check_losses(given, left_out, cut, what, f"training.max_length={max_length}")
    except ValueError as error:
        raise ConfigError(f"{run.name}: {error}") from None
    for name, count in (("left_out", left_out), ("cut", cut)):
        if count:
            run.finish(**{name: run.results.get(name, 0) + count})
    return left_out, cut
