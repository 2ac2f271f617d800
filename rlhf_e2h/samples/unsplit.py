"""Solutions whose steps are not parted by blank lines, on the line of the stage that scores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from reward_models.contract import StepContract
from reward_models.readout import is_unsplit
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.runs import StageRun

MANY = 0.1  # of the solutions: above this a warning says what to do


def report_unsplit(run: StageRun, rows: Sequence[Mapping[str, Any]], models: Iterable[Path]) -> None:
    """Add to the run's `one_step` the texts that a model of steps among `models` takes for one step.

    They have several lines and no blank one. Samples of a policy hold some, and a stage with hours of work behind it
    does not stop for them.
    """
    contracts = [StepContract.from_config(AutoConfig.from_pretrained(model), str(model)) for model in models]
    count = sum(any(is_unsplit(contract, row["text"]) for contract in contracts) for row in rows)
    run.finish(**{name: run.results.get(name, 0) + found for name, found in nonzero(one_step=count).items()})
    if count > MANY * len(rows):
        run.warn(
            f"{count} of {len(rows)} solutions have several lines but no blank one between steps, so a process reward "
            "model scores each as one step; sample with a format whose steps are parted by blank lines"
        )
