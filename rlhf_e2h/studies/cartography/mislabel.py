"""Find suspect labels by noise injection. Reads two maps of the same items: one of the labels as they are, one of a run
in which some easy-to-learn labels were flipped on purpose (a flip stage).

Writes suspects.jsonl, the most suspect first, and a section for the report. With `truth` (labels that were planted
wrongly) it says how many were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reward_models.metrics import auc
from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.report.section import add_section
from rlhf_e2h.report.svg import LIGHT, new_figure
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.studies.cartography.dynamics import read_td_metrics
from rlhf_e2h.studies.cartography.wrong_labels import SUSPECTS, detect, f1
from rlhf_e2h.training.items import FLIPS, Item, read_items

VERSION = 2
TRAITS = Traits(
    order=180,
    about="find suspect labels from training dynamics",
)
FEATURES = ("confidence", "variability")
TRUSTED = 0.5  # confidence in the map that is searched from which a label may stand for a right one


@dataclass
class Config:
    """Settings of the `mislabel` stage."""

    map: Input  # output of a map stage: the labels to search
    injected: Input  # output of a map stage on the run with injected flips
    flips: Input  # the flip stage whose records that run was trained on
    items: Input | None = None  # the run that was mapped: adds text, label and level to the suspects
    truth: Input | None = None  # a stage that wrote flips.jsonl: the labels that are known to be wrong
    threshold: float = 0.5  # least probability of a wrong label
    balanced: bool = False  # leave the prior of a wrong label at one half, as the paper does


def main(config: Config, run: StageRun) -> None:
    guids, values = read_td_metrics(run.path(config.map))
    injected_guids, injected_values = read_td_metrics(run.path(config.injected))
    flipped = _flipped(run, config.flips)
    marks = [guid in flipped for guid in injected_guids]
    agreed = {guid for guid, confidence in zip(guids, values["confidence"], strict=True) if confidence >= TRUSTED}
    trusted = [guid in agreed for guid in injected_guids]
    found = detect(_features(injected_values), marks, _features(values), trusted, run.seed, config.balanced)
    flagged = found.probability >= config.threshold
    items = {item.guid: item for item in read_items(run.path(config.items))} if config.items else {}
    order = [int(i) for i in np.argsort(-found.probability, kind="stable") if flagged[i]]
    write_jsonl(run.out / SUSPECTS, (_row(guids[i], found.probability[i], values, i, items) for i in order))
    rows: list[dict[str, Any]] = [{"figure": "items", "value": len(guids)}]
    rows += [{"figure": "suspects", "value": len(order)}, {"figure": "estimated_share_wrong", "value": found.prior}]
    truth = _flipped(run, config.truth) if config.truth else None
    planted = np.array([guid in truth for guid in guids]) if truth else None
    scores: dict[str, float | None] = {}
    if planted is not None:
        scores = f1(flagged, planted) | {"auc": auc(planted.astype(int), found.probability)}
        rows += [{"figure": name, "value": value} for name, value in scores.items()]
    rows = [
        {**row, "value": round(row["value"], 4) if isinstance(row["value"], float) else row["value"]} for row in rows
    ]
    add_section(
        run.out, "suspects", f"Suspect labels: {run.name}", _paragraph(guids, order, found.prior, scores, planted),
        ("figure", "value"), rows, lambda: _figure(values, flagged, planted),
        "Items on the data map; those the classifier calls wrong are marked.", True,
    )  # fmt: skip
    run.finish(suspects=len(order), of=len(guids), **{k: v for k, v in scores.items() if v is not None})


def _features(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([values[name] for name in FEATURES], axis=1)


def _flipped(run: StageRun, reference: str) -> set[str]:
    path = run.path(reference)
    path = path / FLIPS if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"{run.name}: {path} is missing; give a flip stage, or a reward stage with `flip_labels`")
    return {row["guid"] for row in read_jsonl(path, required=("guid",))}


def _row(
    guid: str, probability: float, values: Mapping[str, np.ndarray], index: int, items: Mapping[str, Item]
) -> dict[str, Any]:
    known = asdict(items[guid]) if guid in items else {}
    return {"guid": guid, "probability": float(probability), **{k: float(values[k][index]) for k in FEATURES}, **known}


def _paragraph(
    guids: Sequence[str], order: Sequence[int], prior: float, scores: Mapping[str, float | None], planted: Any
) -> str:
    text = f"{len(order)} of {len(guids)} labels are suspect; the share of wrong ones is estimated as {prior:.2%}."
    if not scores:
        return text
    shown = ", ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in scores.items())
    return f"{text} Of {int(planted.sum())} labels planted wrongly: {shown}."


def _figure(values: Mapping[str, np.ndarray], flagged: np.ndarray, planted: np.ndarray | None) -> Any:
    figure, axes = new_figure(5.2, 3.8)
    wrong = np.zeros_like(flagged) if planted is None else planted
    kinds = (
        ("not suspect", ~flagged & ~wrong, "s0", 0.3),
        ("suspect" if planted is None else "suspect, not planted", flagged & ~wrong, "s2", 0.8),
        ("suspect, planted", flagged & wrong, "s3", 0.8),
        ("planted, missed", ~flagged & wrong, "s4", 0.9),
    )
    for name, chosen, colour, alpha in kinds:
        if chosen.any():
            axes.scatter(
                values["variability"][chosen], values["confidence"][chosen], s=8, alpha=alpha, linewidths=0,
                color=LIGHT[colour], label=f"{name} ({int(chosen.sum())})", rasterized=True,
            )  # fmt: skip
    axes.set_xlabel("variability")
    axes.set_ylabel("confidence")
    axes.grid(True)
    axes.legend(markerscale=2, fontsize=8)
    return figure
