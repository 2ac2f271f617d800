"""Choose a part of a training set by its data map. Reads a run with `dynamics: true` and its map.

Writes selected.jsonl (record and problem_id of each chosen solution, for `keep` of an sft stage) and, for reward
models, records.jsonl: the chosen records and all held-out ones, for `records` of a reward stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.cartography.dynamics import read_td_metrics
from rlhf_e2h.studies.cartography.measures import METRICS, Ends, select, share_of
from rlhf_e2h.training.items import RECORDS, Item, read_items

VERSION = 1
TRAITS = Traits(
    order=170,
    about="choose a part of a training set by its data map",
)
SELECTED = "selected.jsonl"


@dataclass
class Config:
    """Settings of the `select` stage."""

    map: Input  # output of a map stage
    run: Input  # the training run that was mapped
    metric: str = "variability"  # of cartography, or `random`; a solution's value is the mean over its labels
    fraction: float = 1 / 3  # of the solutions
    easy_share: float = 0.0  # of the selection: easiest solutions in the place of its last members
    ends: Literal["best", "worst", "both"] = "best"  # worst with confidence: what is easy to learn

    def __post_init__(self) -> None:
        if self.metric not in (*METRICS, "random"):
            raise ValueError(f"metric {self.metric!r} is not known; use random or one of {', '.join(METRICS)}")


def main(config: Config, run: StageRun) -> None:
    folder = run.path(config.run)
    items = read_items(folder)
    if not items:
        raise ConfigError(f"{run.name}: {folder} has no items.jsonl; give a run of ours with `dynamics: true`")
    guids, values = read_td_metrics(run.path(config.map))
    records, means = by_record(items, guids, values)
    chosen = choose(records, means, config, run.seed)
    problem_of = {item.record: item.problem_id for item in items}
    write_jsonl(run.out / SELECTED, ({"record": name, "problem_id": problem_of[name]} for name in chosen))
    if (folder / RECORDS).is_file():
        wanted, mapped = set(chosen), set(records)
        rows = read_jsonl(folder / RECORDS)
        kept = [row for row in rows if row["record_id"] in wanted or row["record_id"] not in mapped]
        write_jsonl(run.out / RECORDS, kept)
    run.finish(selected=len(chosen), of=len(records))


def by_record(
    items: list[Item], guids: list[str], values: dict[str, np.ndarray]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Records in order, and the mean of each metric over the labels of each.

    Raises:
        ConfigError: the map holds an item that the run does not have, so it is the map of another run.
    """
    record_of = {item.guid: item.record for item in items}
    unknown = [guid for guid in guids if guid not in record_of]
    if unknown:
        raise ConfigError(f"the map has guid {unknown[0]!r}, which is not in the run; give the map of this very run")
    members: dict[str, list[int]] = {}
    for index, guid in enumerate(guids):
        members.setdefault(record_of[guid], []).append(index)
    means = {name: np.array([values[name][rows].mean() for rows in members.values()]) for name in METRICS}
    return list(members), means


def choose(records: list[str], means: dict[str, Any], config: Config, seed: int) -> list[str]:
    """Names of the chosen records, in the order of the data."""
    if config.metric == "random":
        count = share_of(len(records), config.fraction)
        indices = sorted(np.random.default_rng(seed).permutation(len(records))[:count].tolist())
    else:
        ends: Ends = config.ends
        metric, confidence = means[config.metric], means["confidence"]
        indices = select(config.metric, metric, confidence, config.fraction, config.easy_share, ends)
    return [records[index] for index in indices]
