"""How well a reward model judges solutions whose labels are known: by easy and hard, and by level."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from reward_models.evaluation import compare
from reward_models.intervals import curve_intervals, intervals
from reward_models.records import Stepwise
from reward_models.score import StepScores
from rlhf_e2h.data.levels import LEVELS, band
from rlhf_e2h.stats.auc import auc_kernel
from rlhf_e2h.stats.intervals import bootstrap_mean

WITHIN = "within_problem_auc"
FOLLOWS = 0.9  # rank correlation with the number of steps from which a score says little else


def easy_levels_of(prepare_dir: Path) -> list[int]:
    """The levels that a `prepare` stage calls easy."""
    summary = json.loads((prepare_dir / "summary.json").read_text(encoding="utf-8"))
    return [int(level) for level in summary["easy_levels"]]


def quality_by_group(
    records: Sequence[Stepwise],
    scored: Sequence[StepScores],
    kind: str,
    problem_ids: Sequence[str],
    levels: Sequence[int | None],
    easy_levels: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """The metrics of `reward_models.evaluation.compare` and `within_problem_auc`, with `intervals` by problem, of the
    groups that have records.

    Points of the calibration curve have theirs as `observed_ci`.

    Returns:
        A mapping from "easy", "hard", "all" and "1" to "5".
    """
    bands = [band(level, easy_levels) for level in levels]
    groups = {name: [i for i, found in enumerate(bands) if found == name] for name in ("easy", "hard")}
    groups["all"] = [i for i, found in enumerate(bands) if found != "unknown"]
    groups |= {str(level): [i for i, found in enumerate(levels) if found == level] for level in LEVELS}
    quality = {}
    for name, chosen in groups.items():
        if chosen:
            part = [records[i] for i in chosen], [scored[i] for i in chosen], kind
            ids = [problem_ids[i] for i in chosen]
            found = compare(*part)
            for point, interval in zip(found["calibration_curve"], curve_intervals(*part, ids), strict=True):
                point["observed_ci"] = interval
            within, ends = within_problem_auc(part[0], part[1], ids)
            known = {**intervals(*part, ids), WITHIN: ends}
            quality[name] = found | {WITHIN: within, "intervals": known}
    return quality


def within_problem_auc(
    records: Sequence[Stepwise], scored: Sequence[StepScores], problem_ids: Sequence[str]
) -> tuple[float | None, tuple[float, float] | None]:
    """Outcome AUC among the solutions of one problem, averaged over the problems that have right and wrong ones.

    Best-of-n and votes choose among solutions of one problem, so this is the AUC that they live on: a model that only
    tells easy problems from difficult ones has a high `outcome_auc` and a best-of-n no better than a random choice.

    Returns:
        The mean with its 95 % interval (bootstrap over problems); None without such a problem.
    """
    kept = [i for i, scores in enumerate(scored) if records[i].outcome is not None and not scores.skipped]
    rows = {name: row for row, name in enumerate(dict.fromkeys(problem_ids[i] for i in kept))}
    scores_N, right_N = [scored[i].score for i in kept], [records[i].outcome == 1 for i in kept]
    kernel = auc_kernel(scores_N, right_N, [rows[problem_ids[i]] for i in kept], len(rows))
    pairs_P = kernel.right * kernel.wrong
    auc_P = kernel.wins.diagonal()[pairs_P > 0] / pairs_P[pairs_P > 0]
    if not len(auc_P):
        return None, None
    mean = bootstrap_mean(auc_P)
    return mean.estimate, (mean.low, mean.high)


def length_correlation(scores_N: Sequence[float], steps_N: Sequence[int]) -> float | None:
    """Spearman's correlation of the scores of N solutions with their numbers of steps; None where either is constant.

    Where the steps of every solution score about p, their product is p ** S and their minimum falls with S, too: a vote
    by such scores is a vote for short solutions.
    """
    if len(set(scores_N)) < 2 or len(set(steps_N)) < 2:
        return None
    return float(spearmanr(scores_N, steps_N).statistic)


def length_warning(name: str, aggregation: str, scores_N: Sequence[float], steps_N: Sequence[int]) -> str | None:
    """What to say of a reward model whose aggregated scores follow the number of steps; None if they do not."""
    found = length_correlation(scores_N, steps_N)
    if found is None or abs(found) < FOLLOWS:
        return None
    kind = "short" if found < 0 else "long"
    return (
        f"{name}: the {aggregation} of its step scores follows the number of steps (rank correlation {found:+.2f}), "
        f"so a vote by it is one for {kind} solutions. Its step scores lie close together, as those of a model do that "
        f"has hardly learnt: train it on more, or see {WITHIN} in quality.json before you use it"
    )
