"""The tables of the report page and of the terminal, as plain rows made from `results.json` and completion records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, variance
from typing import Any

from rlhf_e2h.data.firewall import SEALED_LABELS, allowed_scope
from rlhf_e2h.records import Row
from rlhf_e2h.report.comparisons import SIDE_KEYS
from rlhf_e2h.report.results import main_seed
from rlhf_e2h.runner.traits import STAGES

BANDS = ("easy", "hard", "all")
DECODING_ORDER = ("greedy", "mean", "majority", "weighted_vote", "best_of_n", "pass_at_n")
CEILINGS = ("pass_at_n",)  # not decodings: they need to know the answer


def index_rows(results: Mapping[str, Any]) -> dict[tuple[Any, ...], Row]:
    """Rows that stand for the run, by (policy, decoding, reward_model, samples, level)."""
    seed = main_seed(results)
    return {(*(row[key] for key in SIDE_KEYS), row["level"]): row for row in results["rows"] if row["seed"] == seed}


def policy_table(results: Mapping[str, Any]) -> list[Row]:
    """Policies, greedy: accuracy by band, difference to the reference on hard problems; `best` among easy-trained."""
    differences = {_key(row["treatment"]): row for row in results["comparisons"] if row["kind"] == "policy"}
    return _with_best([row for row in _banded(results, differences) if row["decoding"] == "greedy"])


def decoding_table(results: Mapping[str, Any]) -> list[Row]:
    """Every decoding of every sample bank with the most samples, and its difference to majority on hard problems."""
    differences = {_key(row["treatment"]): row for row in results["comparisons"] if row["kind"] == "decoding"}
    rows = [row for row in _banded(results, differences) if row["decoding"] != "greedy"]
    most: dict[str, int] = {}
    for row in rows:
        most[row["policy"]] = max(most.get(row["policy"], 0), row["samples"])
    rows = [row for row in rows if row["samples"] == most[row["policy"]]]
    order = list(dict.fromkeys(row["policy"] for row in rows))
    rows.sort(key=lambda row: (order.index(row["policy"]), _decoding_rank(row["decoding"])))
    return [row for policy in order for row in _with_best([row for row in rows if row["policy"] == policy])]


def slice_table(results: Mapping[str, Any], by: str = "level") -> Row:
    """Every policy (greedy) and every decoding with the most samples, by level or by subject.

    Returns:
        columns (the levels or subjects), and rows with `name`, `labels` and `cells`: column -> row of `results.json`.
    """
    seed = main_seed(results)
    found = results["rows"] if by == "level" else results.get("subjects", ())
    rows = [row for row in found if row["seed"] == seed and row[by] not in BANDS]
    most: dict[str, int] = {}
    for row in rows:
        most[row["policy"]] = max(most.get(row["policy"], 0), row["samples"])
    table: dict[str, Row] = {}
    for row in rows:
        if row["decoding"] != "greedy" and row["samples"] < most[row["policy"]]:
            continue
        model = f" by {row['reward_model']}" if row["reward_model"] else ""
        many = f" of {row['samples']}" if row["samples"] > 1 else ""
        name = f"{row['policy']}, {row['decoding'].replace('_', ' ')}{many}{model}"
        entry = table.setdefault(name, {"name": name, "labels": row["labels"], "cells": {}})
        entry["cells"][row[by]] = row
    counts = {row[by]: row["n"] for row in rows}
    return {"columns": sorted(counts), "counts": counts, "rows": list(table.values())}


def _banded(results: Mapping[str, Any], differences: Mapping[tuple[Any, ...], Row]) -> list[Row]:
    rows = index_rows(results)
    made = []
    for side in dict.fromkeys(key[:-1] for key in rows):
        bands = {level: rows.get((*side, level)) for level in BANDS}
        first = next(row for row in bands.values() if row)
        made.append(
            {key: first[key] for key in (*SIDE_KEYS, "labels")}
            | {"bands": bands, "difference": differences.get(side), "best": set()}
        )
    return made


def _with_best(rows: list[Row]) -> list[Row]:
    """Mark the highest accuracy of each band among rows that read no hard label and need no answer key."""
    fair = [row for row in rows if row["labels"] != "full" and row["decoding"] not in CEILINGS]
    for level in BANDS:
        values = [row["bands"][level]["accuracy"] for row in fair if row["bands"][level]]
        for row in fair:
            if row["bands"][level] and row["bands"][level]["accuracy"] == max(values):
                row["best"].add(level)
    return rows


def _decoding_rank(decoding: str) -> int:
    return DECODING_ORDER.index(decoding) if decoding in DECODING_ORDER else len(DECODING_ORDER)


def _key(side: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(side.get(key) for key in SIDE_KEYS)


def manifest_table(manifest: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a stage (its seeds together): label files opened, label files that its inputs were made from, verdict."""
    rows: dict[str, Row] = {}
    for record in manifest:
        name = record.get("name", record["stage"])
        row = rows.setdefault(
            name, {"name": name, "kind": record["stage"], "seeds": [], "direct": {}, "inherited": set()}
        )
        row["seeds"].append(record["seed"])
        row["inherited"] |= set(record.get("labels_inherited", ()))
        for read in record.get("labels_read", ()):
            row["direct"].setdefault(read["file"], set()).add(read.get("purpose", ""))
    for row in rows.values():
        row["verdict"], row["ok"] = _firewall_verdict(row)
        row["direct"] = [
            f"{file} ({', '.join(sorted(filter(None, purposes)))})" if any(purposes) else file
            for file, purposes in sorted(row["direct"].items())
        ]
        row["inherited"] = sorted(row["inherited"])
    return list(rows.values())


def _firewall_verdict(row: Row) -> tuple[str, bool]:
    """In words, and whether the firewall held. Judged from what was read, not from what a stage may ask for."""
    direct, inherited = row["direct"].get(SEALED_LABELS), SEALED_LABELS in row["inherited"]
    if not direct and not inherited:
        return ("easy labels only" if row["direct"] or row["inherited"] else "no labels"), True
    if allowed_scope("", row["name"]) == "full":
        return "hard labels, named as a baseline", True
    if direct and not (row["kind"] in ("evaluate", "grade") and direct <= {"evaluation"}):
        return "read hard labels", False
    if inherited and STAGES[row["kind"]].trains:
        return "depends on hard labels", False
    return ("evaluation only" if direct else "serves a baseline or the evaluation"), True


def cost_table(manifest: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a stage: runs, seconds in all, tokens and FLOPs where the stage counted them (None where not)."""
    rows: dict[str, Row] = {}
    for record in manifest:
        name = record.get("name", record["stage"])
        empty = {"kind": record["stage"], "runs": 0, "seconds": 0.0, "tokens": None, "flops": None}
        row = rows.setdefault(name, {"name": name, **empty})
        row["runs"] += 1
        row["seconds"] += record.get("seconds", 0.0)
        for key in ("tokens", "flops"):  # in the record itself, or among the stage's results
            counted = record.get(key, record.get("results", {}).get(key))
            if counted is not None:
                row[key] = (row[key] or 0) + counted
    return list(rows.values())


QUALITY_LABELS = {  # metric name -> what the page calls it, in the order of the columns
    "records": "trained on",
    "step_auc_easy": "step AUC, easy",
    "step_auc_hard": "step AUC, hard",
    "outcome_auc_easy": "outcome AUC, easy",
    "outcome_auc_hard": "outcome AUC, hard",
    "within_problem_auc_hard": "the same within a problem, hard",
    "step_balanced_accuracy_all": "step accuracy, balanced",
    "outcome_balanced_accuracy_all": "outcome accuracy, balanced",
    "calibration_error_easy": "calibration error, easy",
    "calibration_error_hard": "calibration error, hard",
    "first_error_f1_easy": "first-error F1, easy",
    "first_error_f1_hard": "first-error F1, hard",
}


def quality_table(quality: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[tuple[str, str]], list[Row]]:
    """(columns as (metric, heading), rows): reward models by metric, the mean over seeds; None where undefined.

    Args:
        quality: reward model -> one mapping a seed, of metric names to numbers or None; metrics that QUALITY_LABELS
            does not name are left out.
    """
    seen = {metric for seeds in quality.values() for metrics in seeds for metric in metrics}
    columns = [(metric, heading) for metric, heading in QUALITY_LABELS.items() if metric in seen]
    shown = ("name", *(metric for metric, _ in columns), *(f"{metric}_ci" for metric, _ in columns))
    return columns, [{metric: row.get(metric) for metric in shown} for row in mean_quality(quality)]


def mean_quality(quality: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """One row a reward model: `name` and the mean of every metric over the seeds that have it.

    `METRIC_ci` holds its 95 % interval. One seed: over problems, as `reward_models.intervals` made it. Several: the
    standard error of a mean of S values whose problems and training runs both vary, (mean of the variances over
    problems + variance over seeds) / S, by the normal approximation.
    """
    rows = []
    for name, seeds in quality.items():
        values: Row = {"name": name}
        for metric in dict.fromkeys(metric for metrics in seeds for metric in metrics):
            known = [metrics[metric] for metrics in seeds if metrics.get(metric) is not None]
            if metric.endswith("_ci"):
                found = [metrics.get(metric.removesuffix("_ci")) for metrics in seeds]
                values[metric] = _interval_of_mean([value for value in found if value is not None], known)
            else:
                values[metric] = sum(known) / len(known) if known else None
        rows.append(values)
    return rows


def _interval_of_mean(values: Sequence[float], ends: Sequence[Sequence[float]]) -> list[float] | None:
    if not values or len(values) != len(ends):
        return None
    if len(values) == 1:
        return list(ends[0])
    over_problems = sum(((high - low) / (2 * 1.96)) ** 2 for low, high in ends) / len(ends)
    half = 1.96 * sqrt((over_problems + variance(values)) / len(values))
    return [fmean(values) - half, fmean(values) + half]
