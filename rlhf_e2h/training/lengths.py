"""What a trainer's limit of tokens loses, on the stage's line."""

from __future__ import annotations

from collections.abc import Iterable

from reward_models.lengths import WARN, losses
from reward_models.records import iter_jsonl
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.runs import StageRun


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


LAST_STEPS = 5


def report_unfinished(run: StageRun, max_new_tokens: int) -> None:
    """The share of a policy's own completions that ended at the limit, over the last steps of `rollout/unfinished`."""
    metrics = run.out / "metrics.jsonl"
    if not run.is_main or not metrics.is_file():
        return
    rows = ([v for k, v in row.items() if k.endswith("rollout/unfinished")] for row in iter_jsonl(metrics))
    shares = [value for row in rows for value in row][-LAST_STEPS:]
    if not shares:
        return
    share = sum(shares) / len(shares)
    run.finish(unfinished=share)
    if share > WARN:
        run.warn(
            f"{share:.0%} of the completions of the last {len(shares)} steps were cut at "
            f"max_new_tokens={max_new_tokens}, and so had no answer; raise it"
        )
