"""What the page shows beside the results, read from the files of finished stages; parts that are missing stay empty."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import variance
from typing import Any

import numpy as np
import yaml

from reward_models.records import read_jsonl
from rlhf_e2h.data.levels import LEVELS
from rlhf_e2h.records import Row
from rlhf_e2h.report.training_figures import LOSS, RL_PANELS

_QUALITY = (
    "step_auc",
    "step_accuracy",
    "step_balanced_accuracy",
    "outcome_auc",
    "within_problem_auc",
    "outcome_accuracy",
    "outcome_balanced_accuracy",
    "calibration_error",
)  # measured by `evaluate` for easy and for hard problems


def read_json(path: Path) -> Any:
    """Parsed file, or None if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def about_run(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> Row:
    """recipe, description, overrides, versions, machine and git of `run.json`; the date is that of the last stage."""
    finished = max((record.get("finished", "") for record in manifest), default="")
    return {
        **(read_json(run_folder / "run.json") or {}),
        "date": finished[:16].replace("T", " ") + " UTC" if finished else "",
    }


def reward_model_quality(evaluations: Sequence[Path], trained: Mapping[str, Sequence[Path]]) -> dict[str, list[Row]]:
    """Reward model -> one flat mapping an evaluation, for `tables.quality_table`.

    Args:
        evaluations: folders of `evaluate`; quality.json there is by reward model and group (easy, hard, level).
        trained: reward model -> folders of `reward`; quality.json there has the number of training records.
    """
    quality: dict[str, list[Row]] = {}
    for folder in evaluations:
        for name, groups in (read_json(folder / "quality.json") or {}).items():
            flat: Row = {}
            for band in ("easy", "hard", "all", *map(str, LEVELS)):
                measured = groups.get(band) or {}
                flat |= {f"{metric}_{band}": measured[metric] for metric in _QUALITY if metric in measured}
                flat[f"first_error_f1_{band}"] = (measured.get("first_error") or {}).get("f1")
                flat |= {f"{metric}_{band}_ci": ends for metric, ends in (measured.get("intervals") or {}).items()}
            quality.setdefault(name, []).append(flat)
    for name, folders in trained.items():
        for folder in folders:
            record = read_json(folder / "quality.json")
            if record:
                quality.setdefault(name, []).append({"records": record.get("records")})
    return quality


def calibration(evaluations: Sequence[Path], band: str = "hard") -> list[Row]:
    """The calibration curves of reward models on one band of problems, seeds pooled.

    Returns rows of reward_model, low (edge of the bin of scores), score, observed (weighted by n), observed_low and
    observed_high (its 95 % interval; None from older evaluations), n.
    """
    pooled: dict[tuple[str, float], list[Row]] = {}
    for folder in evaluations:
        for name, groups in (read_json(folder / "quality.json") or {}).items():
            for point in (groups.get(band) or {}).get("calibration_curve", []):
                pooled.setdefault((name, point["low"]), []).append(point)
    rows = []
    for (name, low), points in pooled.items():
        n = sum(point["n"] for point in points)
        mean = {key: sum(point[key] * point["n"] for point in points) / n for key in ("score", "observed")}
        low_end, high_end = _interval_of_pooled(points, mean["observed"]) or (None, None)
        rows.append(
            {"reward_model": name, "low": low, **mean, "observed_low": low_end, "observed_high": high_end, "n": n}
        )
    names = list(dict.fromkeys(row["reward_model"] for row in rows))
    return sorted(rows, key=lambda row: (names.index(row["reward_model"]), row["low"]))


def _interval_of_pooled(points: Sequence[Row], mean: float) -> tuple[float, float] | None:
    """Of a share pooled over seeds; as `tables.mean_quality`, with seeds weighted by their n."""
    ends = [point["observed_ci"] for point in points if point.get("observed_ci") is not None]
    if len(ends) < len(points):
        return None
    if len(ends) == 1:
        return float(ends[0][0]), float(ends[0][1])
    total = sum(point["n"] for point in points)
    between = variance(point["observed"] for point in points)
    over_problems = (((high - low) / (2 * 1.96)) ** 2 for low, high in ends)
    squares = ((point["n"] / total) ** 2 * (own + between) for point, own in zip(points, over_problems, strict=True))
    half = 1.96 * sqrt(sum(squares))
    return max(0.0, mean - half), min(1.0, mean + half)


def programs(evaluations: Sequence[Path]) -> list[Row]:
    """Rows of every programs.json: strict and average accuracy of programs by difficulty; of the first seed."""
    rows: dict[tuple[Any, ...], Row] = {}
    for folder in evaluations:
        for row in read_json(folder / "programs.json") or ():
            rows.setdefault((row["policy"], row["decoding"], row["reward_model"], row["samples"]), row)
    return list(rows.values())


def roc(evaluations: Sequence[Path], band: str = "all", points: int = 101) -> list[Row]:
    """ROC curves of reward models on one band of problems: the mean true positive rate over seeds on a grid.

    Returns rows of reward_model, part (step, outcome), false_positive, true_positive, seeds.
    """
    grid = np.linspace(0, 1, points)
    found: dict[tuple[str, str], list[Any]] = {}
    for folder in evaluations:
        for name, groups in (read_json(folder / "quality.json") or {}).items():
            for part in ("step", "outcome"):
                curve = (groups.get(band) or {}).get(f"{part}_roc")
                if curve:
                    false, true = ([point[f"{rate}_positive"] for point in curve] for rate in ("false", "true"))
                    found.setdefault((name, part), []).append(np.interp(grid, false, true))
    return [
        {"reward_model": name, "part": part, "false_positive": x, "true_positive": y, "seeds": len(curves)}
        for (name, part), curves in found.items()
        for x, y in zip(grid.tolist(), np.mean(curves, axis=0).tolist(), strict=True)
    ]


def stage_settings(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Stage -> its settings as YAML, from `settings.json`; the seeds of a stage share them."""
    found: dict[str, str] = {}
    for record in manifest:
        settings = read_json(run_folder / record["folder"] / "settings.json") if "folder" in record else None
        if settings:
            kept = {key: value for key, value in settings.items() if key not in ("name", "seed")}
            found.setdefault(record["name"], yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100))
    return found


def evaluation_settings(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Settings of the `evaluate` stages by folder."""
    folders = [record["folder"] for record in manifest if record["stage"] == "evaluate" and "folder" in record]
    found = {folder: read_json(run_folder / folder / "settings.json") for folder in folders}
    return {folder: settings for folder, settings in found.items() if settings}


def problem_subjects(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """problem_id -> subject, of the test problems of every prepare stage upstream; questions only, no label is read."""
    folders = [run_folder / record["folder"] for record in manifest if record["stage"] == "prepare"]
    files = [folder / "problems_test.jsonl" for folder in folders]
    rows = [row for file in files if file.is_file() for row in read_jsonl(file)]
    return {row["problem_id"]: row["subject"] for row in rows if row.get("subject")}


def hacking_points(evaluations: Sequence[Path]) -> list[Row]:
    """Mean reward-model score and accuracy of each policy by level, over problems and evaluations (policies.json)."""
    sums: dict[tuple[str, str, str | None], list[float]] = {}
    for folder in evaluations:
        judged = read_json(folder / "policies.json") or {}
        for policy, by_level in (judged.get("policies") or {}).items():
            for level, measured in by_level.items():
                if "reward" not in measured or level not in map(str, LEVELS):
                    continue
                total = sums.setdefault((policy, level, judged.get("judge")), [0.0, 0.0, 0.0])
                for index, value in enumerate((1.0, measured["reward"], measured["accuracy"])):
                    total[index] += measured["n"] * value
    return [
        {
            "policy": policy,
            "level": level,
            "step": None,
            "judge": judge,
            "score": score / n,
            "accuracy": accuracy / n,
            "n": int(n),
        }
        for (policy, level, judge), (n, score, accuracy) in sums.items()
    ]


def training_hacking_points(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The same over PPO steps, from the metrics `eval/rm_level_L` and `eval/accuracy_level_L` of the stage.

    Training checks easy problems only, so the points are of the easy band: the mean over its levels and over seeds.
    """
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for record in manifest:
        metrics = run_folder / record.get("folder", "") / "metrics.jsonl"
        if record["stage"] != "ppo" or not metrics.is_file():
            continue
        for row in read_jsonl(metrics):
            pairs = [(row.get(f"eval/rm_level_{level}"), row.get(f"eval/accuracy_level_{level}")) for level in LEVELS]
            known = [(score, accuracy) for score, accuracy in pairs if score is not None and accuracy is not None]
            if known and "step" in row:
                found.setdefault((record["name"], row["step"]), []).extend(known)
    return [
        {
            "policy": name,
            "level": "easy",
            "step": step,
            "judge": None,
            "score": sum(score for score, _ in pairs) / len(pairs),
            "accuracy": sum(accuracy for _, accuracy in pairs) / len(pairs),
        }
        for (name, step), pairs in sorted(found.items())
    ]


def training_curves(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Every logged value of the metrics that `training_figures` draws, in long form.

    A stage that trains in rounds starts to count anew in each; here the rounds follow one another.
    """
    wanted = [*RL_PANELS, LOSS]
    points: list[Row] = []
    for record in manifest:
        metrics = run_folder / record.get("folder", "") / "metrics.jsonl"
        if not metrics.is_file():
            continue
        offset, last = 0, -1
        for row in read_jsonl(metrics):
            if "step" not in row:
                continue
            easy = [row[f"eval/accuracy_level_{level}"] for level in LEVELS if f"eval/accuracy_level_{level}" in row]
            row = row | ({"eval/accuracy_easy": sum(easy) / len(easy)} if easy else {})
            if row["step"] < last:
                offset += last
            last = row["step"]
            common = {"stage": record["name"], "kind": record["stage"], "seed": record["seed"], "step": offset + last}
            points += [
                common | {"metric": key, "value": row[key]} for key in wanted & row.keys() if row[key] is not None
            ]
    return points


def training_rollouts(run_folder: Path, manifest: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rollouts that PPO kept while it trained, with the text of their problems; `correct` is None without a label."""
    texts: dict[str, str] = {}
    for record in manifest:
        if record["stage"] == "prepare":
            for file in sorted((run_folder / record.get("folder", "")).glob("problems_*.jsonl")):
                texts |= {row["problem_id"]: row["problem"] for row in read_jsonl(file)}
    rows: list[Row] = []
    for record in manifest:
        file = run_folder / record.get("folder", "") / "rollouts.jsonl"
        if file.is_file():
            rows += [
                {
                    **row,
                    "policy": record["name"],
                    "seed": record["seed"],
                    "problem": texts.get(row["problem_id"], row["problem_id"]),
                    "correct": None if row["outcome"] is None else row["outcome"] > 0,
                    "score": min(row["step_scores"], default=None),
                }
                for row in read_jsonl(file)
            ]
    return rows


def readable_solutions(evaluations: Sequence[Path]) -> list[Row]:
    """Rows of every solutions.jsonl; one problem may occur several times."""
    files = [folder / "solutions.jsonl" for folder in evaluations]
    return [row for file in files if file.is_file() for row in read_jsonl(file, required=("problem", "correct"))]
