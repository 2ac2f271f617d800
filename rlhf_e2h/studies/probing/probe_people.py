"""What a data map says of people's labels: is what they call neutral ambiguous, and which labels look wrong?

Reads a map of PRM800K's steps, the states' items with people's ratings, and a mislabel stage. Writes the correlation of
each measure with disagreement (rating 0 against +1 and -1) and finds.md, the most suspect labels with their context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reward_models.records import read_jsonl
from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.stats.auc import auc_kernel, bootstrap_aucs
from rlhf_e2h.stats.intervals import DRAWS, interval_from_draws
from rlhf_e2h.studies.cartography.dynamics import read_td_metrics
from rlhf_e2h.studies.cartography.wrong_labels import SUSPECTS
from rlhf_e2h.studies.probing.state_files import ITEMS

VERSION = 1
TRAITS = Traits(order=192, about="what a data map says of people's ratings", runs_model=False)
COLUMNS = ("measure", "question", "auc", "low", "high", "items", "positive", "problems")
FINDS = "finds.md"
WIDTH = 160  # characters of a text in finds.md
Row = dict[str, Any]


@dataclass
class Config:
    """Settings of the `probe_people` stage."""

    map: Input  # output of a map stage
    features: Input  # the probe_features stage behind it
    suspects: Input | None = None  # output of a mislabel stage on that map
    finds: int = 20  # suspects to print
    draws: int = DRAWS


def main(config: Config, run: StageRun) -> None:
    guids, values = read_td_metrics(run.path(config.map))
    items = {row["guid"]: row for row in read_jsonl(run.path(config.features) / ITEMS)}
    rows = [items[guid] for guid in guids]
    if not any(row["rating"] == 0 for row in rows):
        raise ConfigError(f"{run.name}: no item of {config.features} has rating 0; give features of PRM800K's steps")
    table = disagreement(rows, values, config.draws)
    paragraph = "; ".join(
        f"{r['question']}, {r['measure']}: AUC {r['auc']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in table
    )
    add_section(run.out, "people", "Data map and people's disagreement", f"{paragraph}.", COLUMNS, table, open=True)
    console.print(paragraph, markup=False)
    found = 0
    if config.suspects:
        suspects = read_jsonl(run.path(config.suspects) / SUSPECTS)[: config.finds]
        (run.out / FINDS).write_text("\n".join(_finds(suspects, items)) + "\n", encoding="utf-8")
        found = len(suspects)
    run.finish(items=len(rows), neutral=sum(row["rating"] == 0 for row in rows), finds=found)


def disagreement(rows: Sequence[Row], values: Mapping[str, np.ndarray], draws: int) -> list[Row]:
    """AUC of measures of the map for "people called this neutral", among all steps and among those called right."""
    problems = {name: i for i, name in enumerate(sorted({row["problem_id"] for row in rows}))}
    place = np.array([problems[row["problem_id"]] for row in rows])
    rating = np.array([np.nan if row["rating"] is None else row["rating"] for row in rows], dtype=float)
    questions = {"0 against +1 and -1": np.isfinite(rating), "0 against +1": rating >= 0}
    found = []
    for question, chosen in questions.items():
        for measure, sign in (("variability", 1), ("threshold_closeness", 1), ("confidence", -1)):
            kernel = auc_kernel(
                sign * values[measure][chosen], rating[chosen] == 0, place[chosen], len(problems)
            )  # low confidence is disagreement
            drawn = bootstrap_aucs([[kernel]], draws)
            if isinstance(drawn, str):
                raise ConfigError(f"{question}: {drawn}; give features of more steps")
            value = interval_from_draws(drawn[0][:, 0], float(drawn[1][0]), len(problems))
            found.append(
                {
                    "measure": measure if sign > 0 else f"low {measure}", "question": question, "auc": value.estimate,
                    "low": value.low, "high": value.high, "items": int(chosen.sum()),
                    "positive": int((rating[chosen] == 0).sum()), "problems": len(set(place[chosen].tolist())),
                }
            )  # fmt: skip
    return found


def _finds(suspects: Sequence[Row], items: Mapping[str, Row]) -> list[str]:
    lines = ["| p(wrong) | people | problem | step before | step |", "|---|---|---|---|---|"]
    for suspect in suspects:
        item = items[suspect["guid"]]
        cells = (item["problem"], item["before"], item["text"])
        shown = " | ".join(_cell(text) for text in cells)
        people = item["label"] if item["rating"] is None else f"{item['rating']:+d}"
        lines.append(f"| {suspect['probability']:.2f} | {people} | {shown} |")
    return lines


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= WIDTH else f"{line[:WIDTH]} ..."
