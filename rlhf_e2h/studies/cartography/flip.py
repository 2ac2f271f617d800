"""Flip some labels of a training set on purpose, at random or among what a data map calls easy to learn.

Reads a reward model's run with `dynamics: true`; writes records.jsonl for `records` of another reward stage (held-out
records as they were) and flips.jsonl, the guids of the flipped labels, for a mislabel stage.
"""

from __future__ import annotations

from dataclasses import dataclass

from reward_models.formats import read_records
from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.cartography.dynamics import REGIONS_FILE
from rlhf_e2h.studies.cartography.measures import REGIONS
from rlhf_e2h.training.items import FLIPS, RECORDS, flips, read_items, with_flips

VERSION = 1
TRAITS = Traits(
    order=175,
    about="flip labels of a training set on purpose, to look for them again",
    runs_model=False,
)


@dataclass
class Config:
    """Settings of the `flip` stage."""

    run: Input  # output of a reward stage with `dynamics: true`
    share: float = 0.05  # flipped labels, as a share of all labels it trained on
    among: Input | None = None  # output of a map stage on that run: flip only what is easy to learn; any if not given


def main(config: Config, run: StageRun) -> None:
    folder = run.path(config.run)
    items = read_items(folder)
    if not items or not (folder / RECORDS).is_file():
        raise ConfigError(f"{run.name}: {folder} has no items.jsonl and {RECORDS}; give a reward stage with `dynamics`")
    candidates = list(range(len(items)))
    if config.among:
        rows = read_jsonl(run.path(config.among) / REGIONS_FILE, required=("guid", "region"))
        easy = {row["guid"] for row in rows if row["region"] == REGIONS[0]}
        candidates = [index for index, item in enumerate(items) if item.guid in easy]
    # another seed than that of `flip_labels` in a reward stage, which would choose the same labels
    chosen = flips(candidates, config.share, len(items), run.seed + 1)
    records = with_flips(read_records(folder / RECORDS), items, chosen)
    write_jsonl(run.out / RECORDS, (record.to_row() for record in records))
    write_jsonl(run.out / FLIPS, ({"guid": items[index].guid} for index in chosen))
    run.finish(flipped=len(chosen), of=len(items))
