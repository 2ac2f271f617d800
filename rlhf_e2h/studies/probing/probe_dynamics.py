"""Training dynamics of a linear head on frozen states: a data map of labels that a large model has read once.

Writes training_dynamics and items.jsonl as a reward stage with `dynamics: true` does, for `map` and `mislabel`. Labels
can be flipped on purpose: `planted` ones to be looked for again, and `inject`ed ones, among what a map calls easy to
learn, by which `mislabel` learns what a wrong label looks like; flips.jsonl names the latter, or else the former.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.cartography.dynamics import REGIONS_FILE
from rlhf_e2h.studies.cartography.measures import REGIONS
from rlhf_e2h.studies.probing.heads import HeadSettings, fit_head, reduced
from rlhf_e2h.studies.probing.state_files import read_states
from rlhf_e2h.training.dynamics import FOLDER, write_epoch
from rlhf_e2h.training.items import FLIPS, ITEMS, Item, flips

VERSION = 1
TRAITS = Traits(order=155, about="training dynamics of a head on frozen states", runs_model=False, trains=True)


@dataclass
class Config:
    """Settings of the `probe_dynamics` stage."""

    features: Input  # output of a probe_features stage
    kind: Literal["steps", "outcomes"] = "steps"
    planted: float = 0.0  # share of labels flipped at random, the same in every stage with this seed
    inject: float = 0.0  # share of labels flipped on top of them ...
    among: Input | None = None  # ... among what this map stage calls easy to learn
    penalty: float = 0.003  # times |w|^2
    components: int = 128
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        if bool(self.inject) != bool(self.among):
            raise ValueError("inject and among go together: a share of flips, and a map whose easy labels are flipped")


def main(config: Config, run: StageRun) -> None:
    items, states_ND = read_states(run.path(config.features))
    kept = [i for i, item in enumerate(items) if item["kind"] == config.kind]
    if not kept:
        raise ConfigError(f"{run.name}: {config.features} has no items of kind {config.kind}; set `kind`")
    rows = [items[i] for i in kept]
    labels_N = np.array([row["label"] for row in rows])
    planted = flips(np.arange(len(rows)), config.planted, len(rows), run.seed) if config.planted else []
    injected: list[int] = []
    if config.among:
        regions = read_jsonl(run.path(config.among) / REGIONS_FILE, required=("guid", "region"))
        easy = {row["guid"] for row in regions if row["region"] == REGIONS[0]}
        left = [i for i, row in enumerate(rows) if row["guid"] in easy and i not in set(planted)]
        injected = flips(left, config.inject, len(rows), run.seed + 1)
    labels_N[planted] = 1 - labels_N[planted]
    labels_N[injected] = 1 - labels_N[injected]
    x_NC = reduced(states_ND[kept], np.ones(len(rows), dtype=bool), config.components)
    guids = [row["guid"] for row in rows]
    folder = run.scratch / FOLDER

    def log(epoch: int, logits_N: np.ndarray) -> None:
        write_epoch(folder, epoch, guids, ([0.0, float(v)] for v in logits_N), labels_N.tolist())
        run.log({"accuracy": float(((logits_N > 0) == labels_N).mean())}, epoch)

    fit_head(x_NC, labels_N.astype(float), config.penalty, "xent", config.head, run.seed, log)
    made = [
        Item(r["guid"], r["guid"], r["problem_id"], r["level"], r["step"], int(label), r["text"])
        for r, label in zip(rows, labels_N, strict=True)
    ]
    write_jsonl(run.out / ITEMS, map(asdict, made))
    write_jsonl(run.out / FLIPS, ({"guid": guids[i]} for i in injected or planted))
    shutil.rmtree(run.out / FOLDER, ignore_errors=True)
    shutil.move(folder, run.out / FOLDER)
    run.finish(items=len(rows), planted=len(planted), injected=len(injected))
