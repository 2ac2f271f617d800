"""Tables of a supervision-gap study over its seeds: accuracy by arm and test group, SGR, cost and noise curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.records import Row
from rlhf_e2h.stats.gaps import sgr
from rlhf_e2h.stats.intervals import DRAWS, bootstrap_mean, paired_difference
from rlhf_e2h.studies.gap.slices import cost_of

ITEMS = "items.jsonl"  # what a gap stage writes: a row each method and problem

COLUMNS = (
    "method", "train_on", "test_on", "n", "noise", "accuracy", "low", "high", "over_none", "over_none_low",
    "over_none_high", "problems", "seeds", "null_because",
)  # fmt: skip
SGR_COLUMNS = ("method", "test_on", "n", "noise", "sgr", "low", "high", "hard_minus_none", "null_because", "seeds")
Key = tuple[str, str, int, float]  # method, train_on, n, noise
Curves = dict[str, list[tuple[float, float, float, float]]]  # arm -> (x, accuracy, low, high), by rising x


class Outcomes:
    """Item rows of all seeds as matrices problems x seeds, one for each cell."""

    def __init__(self, rows_S: Sequence[Sequence[Row]]) -> None:
        """`rows_S` holds the item rows of each seed.

        Raises:
            ValueError: a cell lacks a problem or a seed, or answers a problem twice.
        """
        first = {row["problem_id"]: row["level"] for row in rows_S[0]}
        self.ids, self.levels = list(first), list(first.values())
        place = {problem_id: index for index, problem_id in enumerate(self.ids)}
        self.cells: dict[Key, NDArray[np.float64]] = {}
        for seed, rows in enumerate(rows_S):
            for row in rows:
                key = (row["method"], row["train_on"], int(row["n"]), float(row["noise"]))
                matrix = self.cells.setdefault(key, np.full((len(self.ids), len(rows_S)), np.nan))
                if row["problem_id"] not in place or np.isfinite(matrix[place[row["problem_id"]], seed]):
                    raise ValueError(f"{key}: problem {row['problem_id']!r} is new or double in seed number {seed}")
                matrix[place[row["problem_id"]], seed] = row["correct"]
        for key, matrix in self.cells.items():
            missing = int(np.isnan(matrix).sum())
            if missing:
                raise ValueError(f"{key}: {missing} answers are missing; run the gap stage again for all seeds")

    def groups(self, easy_levels: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
        levels = np.asarray(self.levels)
        easy = np.isin(levels, list(easy_levels))
        by_level = {f"level {level}": levels == level for level in range(1, 6)}
        return {**by_level, "easy": easy, "hard": ~easy, "all": np.ones(len(levels), dtype=bool)}

    def floor(self, method: str) -> NDArray[np.float64] | None:
        """Outcomes of the method without supervision."""
        return next((m for key, m in self.cells.items() if key[0] == method and key[1] == "none"), None)


def accuracy_table(outcomes: Outcomes, easy_levels: Sequence[int], draws: int = DRAWS) -> list[Row]:
    """Accuracy of every cell on every test group, and its paired difference to the method's floor."""
    rows = []
    for (method, train_on, n, noise), matrix in outcomes.cells.items():
        floor = outcomes.floor(method)
        for group, chosen_P in outcomes.groups(easy_levels).items():
            row: Row = {"method": method, "train_on": train_on, "test_on": group, "n": n, "noise": noise}
            row |= {"problems": int(chosen_P.sum()), "seeds": matrix.shape[1]}
            if not chosen_P.any():
                rows.append({**row, "null_because": "no test problems of this level"})
                continue
            mean = bootstrap_mean(matrix[chosen_P], draws)
            row |= {"accuracy": mean.estimate, "low": mean.low, "high": mean.high}
            if floor is not None and train_on != "none":
                over = paired_difference(matrix[chosen_P], floor[chosen_P], draws)
                row |= {"over_none": over.estimate, "over_none_low": over.low, "over_none_high": over.high}
            rows.append(row)
    return rows


def sgr_table(outcomes: Outcomes, easy_levels: Sequence[int], draws: int = DRAWS) -> list[Row]:
    """SGR = (easy - none) / (hard - none) of each method at equal n and noise, on hard, easy and all problems."""
    rows = []
    for (method, train_on, n, noise), easy in outcomes.cells.items():
        if train_on != "easy":
            continue
        hard, floor = outcomes.cells.get((method, "hard", n, noise)), outcomes.floor(method)
        for group in ("hard", "easy", "all"):
            row: Row = {"method": method, "test_on": group, "n": n, "noise": noise, "seeds": easy.shape[1]}
            chosen_P = outcomes.groups(easy_levels)[group]
            if hard is None or floor is None or not chosen_P.any():
                lacking = "a hard arm" if hard is None else "an unsupervised arm" if floor is None else "test problems"
                rows.append({**row, "null_because": f"the study lacks {lacking}"})
                continue
            ratio = sgr(floor[chosen_P], easy[chosen_P], hard[chosen_P], draws)
            row |= {"sgr": ratio.estimate, "low": ratio.low, "high": ratio.high, "null_because": ratio.reason}
            gap = float(hard[chosen_P].mean() - floor[chosen_P].mean())
            rows.append({**row, "hard_minus_none": gap})
    return rows


def main_n(outcomes: Outcomes) -> dict[str, int]:
    """Problems that the arms of each method learn from: the n of most arms, the first of equals; curves have others."""
    found: dict[str, Counter[int]] = {}
    for method, train_on, n, noise in outcomes.cells:
        found.setdefault(method, Counter())[n] += bool(train_on != "none" and n and not noise)
    return {method: max(counts, key=counts.__getitem__) for method, counts in found.items()}


def heat_map(outcomes: Outcomes, method: str) -> NDArray[np.float64] | None:
    """Accuracy (5, 5) of a method trained on each level alone (rows) on each level (columns); None if it was not."""
    found = np.full((5, 5), np.nan)
    for (name, train_on, _, noise), matrix in outcomes.cells.items():
        if name == method and train_on.startswith("level ") and not noise:
            for level in range(1, 6):
                chosen_P = np.asarray(outcomes.levels) == level
                if chosen_P.any():
                    found[int(train_on.removeprefix("level ")) - 1, level - 1] = matrix[chosen_P].mean()
    return found if np.isfinite(found).any() else None


def cost_curve(rows: Sequence[Row], method: str, hard_cost: float) -> Curves:
    """Accuracy on hard problems over label cost, clean labels."""
    return _curves(
        rows, method, lambda row: cost_of(row["train_on"], row["n"], hard_cost) if not row["noise"] else None
    )


def noise_curve(rows: Sequence[Row], method: str, n: int) -> Curves:
    """Accuracy on hard problems over the noise p of easy labels; hard labels are redrawn with 2p."""
    return _curves(rows, method, lambda row: row["noise"] if row["n"] == n else None)


def _curves(rows: Sequence[Row], method: str, place: Callable[[Row], float | None]) -> Curves:
    found: Curves = {}
    for row in rows:
        x = place(row)
        known = x is not None and row.get("accuracy") is not None
        if known and row["method"] == method and row["test_on"] == "hard" and row["train_on"] in ("easy", "hard"):
            found.setdefault(row["train_on"], []).append((float(x or 0), row["accuracy"], row["low"], row["high"]))
    return {arm: sorted(points) for arm, points in found.items()}
