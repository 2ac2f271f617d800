"""`results.csv` and `results.json`: every accuracy with n and interval, the comparisons, the gap ratios.

Nothing here reads a clock, a machine or a random source without a seed: identical outcomes give identical bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_e2h.report.comparisons import Comparison, Gap, compare, default_comparisons, default_gaps, gap_ratios
from rlhf_e2h.report.outcomes import SLICES, SUBJECT, Condition, Outcomes
from rlhf_e2h.stats.intervals import DRAWS, Interval, bootstrap_means, interval_from_draws, wilson

COLUMNS = (
    "policy",
    "decoding",
    "reward_model",
    "labels",
    "samples",
    "level",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "seed",
)
ALL_SEEDS = "all"
DIGITS = 6  # decimals in both files
METHOD = {
    "level": "95 %",
    "n": "distinct problems; with several seeds each problem counts once",
    "one_seed": "Wilson score interval over problems",
    "all_seeds": f"percentile bootstrap, {DRAWS} draws, problems and seeds resampled jointly for all conditions",
    "comparisons": "paired: the same resampled problems and seeds for both sides; not adjusted for their number",
}


def build_results(
    outcomes: Outcomes,
    comparisons: Sequence[Comparison] | None = None,
    gaps: Sequence[Gap] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Everything that the report shows, as plain data (what `results.json` holds).

    Args:
        comparisons, gaps: what to compare; None asks for the default lists of `report.comparisons`.
        draws: bootstrap draws of every interval that is not a Wilson interval.

    Returns:
        seeds, method, rows (a dict for each line of the CSV), subjects (the same by subject), comparisons, pgr.
    """
    chosen = default_comparisons(outcomes) if comparisons is None else comparisons
    ratios = default_gaps(outcomes) if gaps is None else gaps
    return {
        "format": 1,
        "seeds": outcomes.seeds,
        "method": METHOD | {"draws": draws},
        "rows": accuracy_rows(outcomes, draws),
        "subjects": subject_rows(outcomes, draws),
        "comparisons": compare(outcomes, chosen, draws),
        "pgr": gap_ratios(outcomes, ratios, draws),
    }


def accuracy_rows(outcomes: Outcomes, draws: int = DRAWS, slices: Sequence[str] = SLICES) -> list[dict[str, Any]]:
    """One row a condition, slice and seed, then the rows over all seeds; slices without problems are left out."""
    rows = [
        _row(condition, level, _one_seed(outcomes, condition, level, seed), seed)
        for condition in outcomes.conditions
        for level in slices
        for seed in sorted(outcomes.correct[condition])
        if outcomes.problems([condition], level, [seed])
    ]
    return rows + (_all_seed_rows(outcomes, draws, slices) if len(outcomes.seeds) > 1 else [])


def subject_rows(outcomes: Outcomes, draws: int = DRAWS) -> list[dict[str, Any]]:
    """Rows by subject, with `subject` in the place of `level`; none where all problems are of one subject."""
    rows = accuracy_rows(outcomes, draws, outcomes.subject_slices)
    return [{"subject": row.pop("level").removeprefix(SUBJECT), **row} for row in rows]


def _one_seed(outcomes: Outcomes, condition: Condition, level: str, seed: int) -> Interval:
    problems = outcomes.problems([condition], level, [seed])
    total = float(outcomes.stack([condition], problems, [seed]).sum())
    return wilson(min(total, len(problems)), len(problems))  # a sum of means may exceed n by rounding


def _all_seed_rows(outcomes: Outcomes, draws: int, slices: Sequence[str]) -> list[dict[str, Any]]:
    """Rows over all seeds; conditions that answered the same problems share one pass of resampling."""
    found: dict[tuple[Condition, str], Interval] = {}
    for level in slices:
        groups: dict[tuple[tuple[str, ...], tuple[int, ...]], list[Condition]] = {}
        for condition in outcomes.conditions:
            seeds = outcomes.common_seeds([condition])
            problems = outcomes.problems([condition], level, seeds)
            if len(seeds) > 1 and problems:
                groups.setdefault((tuple(problems), tuple(seeds)), []).append(condition)
        for (problems_key, seeds_key), conditions in groups.items():
            values_CPS = outcomes.stack(conditions, problems_key, seeds_key)
            means_DC = bootstrap_means(values_CPS, draws)
            for column, condition in enumerate(conditions):
                mean = float(values_CPS[column].mean())
                n = len(problems_key)
                # a bootstrap of equal values has no width; Wilson has
                ends = mean in (0.0, 1.0)
                interval = wilson(mean * n, n) if ends else interval_from_draws(means_DC[:, column], mean, n)
                found[condition, level] = interval
    return [
        _row(condition, level, found[condition, level], ALL_SEEDS)
        for condition in outcomes.conditions
        for level in slices
        if (condition, level) in found
    ]


def _row(condition: Condition, level: str, interval: Interval, seed: int | str) -> dict[str, Any]:
    return {
        **condition._asdict(),
        "level": level,
        "n": interval.n,
        "accuracy": round(interval.estimate, DIGITS),
        "ci_low": round(interval.low, DIGITS),
        "ci_high": round(interval.high, DIGITS),
        "seed": seed,
    }


def write_results(results: dict[str, Any], folder: Path) -> None:
    """Write `results.csv` (null is an empty cell) and `results.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", COLUMNS, results["rows"])
    if results.get("subjects"):
        columns = ["subject" if column == "level" else column for column in COLUMNS]
        write_csv(folder / "subjects.csv", columns, results["subjects"])
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """A CSV with fixed line ends and fixed decimals; a field that a row lacks, or null, is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[_cell(row.get(column)) for column in columns] for row in rows])


def _cell(value: Any) -> Any:
    return f"{value:.{DIGITS}f}" if isinstance(value, float) else ("" if value is None else value)


def main_seed(results: Mapping[str, Any]) -> int | str:
    """The value of `seed` whose rows stand for the run: all seeds together, or the only one."""
    return results["seeds"][0] if len(results["seeds"]) == 1 else ALL_SEEDS
