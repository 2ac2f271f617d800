"""Tables of a weak-to-strong study over its seeds: AUC and best-of-n by level, PGR, tests against a reference loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.records import Row
from rlhf_e2h.stats.auc import auc_kernel, bootstrap_aucs
from rlhf_e2h.stats.gaps import GapRatio, ratio_from_draws
from rlhf_e2h.stats.intervals import DRAWS, bootstrap_mean, bootstrap_means, interval_from_draws
from rlhf_e2h.stats.paired_tests import paired_tests

SCORES = "scores.jsonl"  # what a weak_to_strong stage writes

WEAK, CEILING = "weak", "ceiling"
COLUMNS = (
    "method", "test_on", "metric", "value", "low", "high", "pgr", "pgr_low", "pgr_high", "pgr_null_because",
    "problems", "solutions", "seeds",
)  # fmt: skip
TEST_COLUMNS = ("method", "against", "metric", "units", "difference", "t_p", "wilcoxon_p", "null_because")


@dataclass(frozen=True)
class ScoredBank:
    """One seed's bank: N solutions with their problem (row number), truth, and a score of each method."""

    problem: NDArray[np.int64]  # (N,)
    correct: NDArray[np.bool_]  # (N,)
    usable: NDArray[np.bool_]  # (N,) finished; others are never chosen
    scores: Mapping[str, NDArray[np.float64]]  # method -> (N,)


def groups_of_levels(levels_P: Sequence[int], easy_levels: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """Problems of each level 1-5, easy, hard, all; a level without problems stays in, so that its null can be seen."""
    levels = np.asarray(levels_P)
    easy = np.isin(levels, list(easy_levels))
    by_level = {f"level {level}": levels == level for level in range(1, 6)}
    return {**by_level, "easy": easy, "hard": ~easy, "all": np.ones(len(levels), dtype=bool)}


def table(
    banks_S: Sequence[ScoredBank], levels_P: Sequence[int], easy_levels: Sequence[int], draws: int = DRAWS
) -> list[Row]:
    """One row for each method, group and metric; PGR for students, null with its reason where there is none.

    Raises:
        ValueError: seeds with different methods, or no weak or ceiling scores among them.
    """
    methods = _methods(banks_S)
    rows = []
    for group, chosen_P in groups_of_levels(levels_P, easy_levels).items():
        for metric, of in (("auc", _auc_draws), ("best_of_n", _best_draws)):
            about = {"test_on": group, "metric": metric, "problems": int(chosen_P.sum()), "seeds": len(banks_S)}
            found = of(banks_S, methods, chosen_P, draws) if chosen_P.any() else "no problems of this level"
            solutions = sum(int(chosen_P[bank.problem].sum()) for bank in banks_S)
            for column, method in enumerate(methods):
                row: Row = {"method": method, **about, "solutions": solutions}
                if isinstance(found, str):
                    rows.append({**row, "pgr_null_because": found})
                    continue
                draws_DC, means_C = found
                rows.append({**row, **_value(draws_DC, means_C, column, int(chosen_P.sum()))})
                if method not in (WEAK, CEILING):
                    three = [methods.index(WEAK), column, methods.index(CEILING)]
                    rows[-1] |= _pgr(ratio_from_draws(draws_DC[:, three], means_C[three], int(chosen_P.sum())))
    return rows


def against_reference(
    banks_S: Sequence[ScoredBank], levels_P: Sequence[int], reference: str, levels: Sequence[int], draws: int = 100
) -> list[Row]:
    """Paired tests of every method against the reference; a unit is one level (data set) under one seed."""
    methods = _methods(banks_S)
    if reference not in methods:
        raise ValueError(f"reference {reference!r} is not a method of this study; it has {', '.join(methods)}")
    rows = []
    for metric in ("auc", "best_of_n"):
        units = [(bank, np.asarray(levels_P) == level) for bank in banks_S for level in levels]
        values = [_estimates(bank, methods, chosen_P, metric) for bank, chosen_P in units if chosen_P.any()]
        known = np.array([value for value in values if value is not None])
        for column, method in enumerate(methods):
            if method == reference:
                continue
            row: Row = {"method": method, "against": reference, "metric": metric, "units": len(known)}
            if not len(known):
                rows.append({**row, "null_because": "no unit has both right and wrong solutions"})
                continue
            result = paired_tests(known[:, column], known[:, methods.index(reference)])
            rows.append(
                {
                    **row,
                    "difference": result.difference,
                    "t_p": result.t_p,
                    "wilcoxon_p": result.wilcoxon_p,
                    "null_because": result.reason,
                }
            )
    return rows


def best_of_n(bank: ScoredBank, method: str, problems: int) -> NDArray[np.float64]:
    """Is the best-scored finished solution of each problem right? (P,); 0 where none is finished; first of equals."""
    right_P = np.zeros(problems)
    scores = np.where(bank.usable, bank.scores[method], -np.inf)
    order = np.lexsort((np.arange(len(scores)), -scores, bank.problem))
    problem_N = bank.problem[order]
    first = order[np.r_[True, problem_N[1:] != problem_N[:-1]]]
    right_P[bank.problem[first]] = bank.correct[first] & bank.usable[first]
    return right_P


def _methods(banks_S: Sequence[ScoredBank]) -> list[str]:
    names = {tuple(sorted(bank.scores)) for bank in banks_S}
    if len(names) != 1:
        raise ValueError(f"seeds have different methods: {sorted(names)}; run the recipe again for all seeds")
    methods = list(banks_S[0].scores)
    for needed in (WEAK, CEILING):
        if needed not in methods:
            raise ValueError(f"no scores of {needed!r} among {', '.join(methods)}; PGR needs weak, student and ceiling")
    return [WEAK, *(m for m in methods if m not in (WEAK, CEILING)), CEILING]


def _auc_draws(
    banks_S: Sequence[ScoredBank], methods: Sequence[str], chosen_P: NDArray[np.bool_], draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    number_P = np.cumsum(chosen_P) - 1
    kernels_CS = []
    for method in methods:
        row = []
        for bank in banks_S:
            inside = chosen_P[bank.problem]
            problem_N = number_P[bank.problem[inside]]
            row.append(auc_kernel(bank.scores[method][inside], bank.correct[inside], problem_N, int(chosen_P.sum())))
        kernels_CS.append(row)
    return bootstrap_aucs(kernels_CS, draws)


def _best_draws(
    banks_S: Sequence[ScoredBank], methods: Sequence[str], chosen_P: NDArray[np.bool_], draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values_CPS = np.stack(
        [np.stack([best_of_n(bank, m, len(chosen_P))[chosen_P] for bank in banks_S], axis=1) for m in methods]
    )
    return bootstrap_means(values_CPS, draws), values_CPS.mean(axis=(1, 2))


def _estimates(
    bank: ScoredBank, methods: Sequence[str], chosen_P: NDArray[np.bool_], metric: str
) -> list[float] | None:
    if metric == "best_of_n":
        return [float(best_of_n(bank, method, len(chosen_P))[chosen_P].mean()) for method in methods]
    found = _auc_draws([bank], methods, chosen_P, 1000)
    return None if isinstance(found, str) else found[1].tolist()


def _value(draws_DC: NDArray[np.float64], means_C: NDArray[np.float64], column: int, problems: int) -> Row:
    if means_C[column] in (0.0, 1.0):  # a bootstrap of equal values has no width
        interval = bootstrap_mean(np.full(problems, means_C[column]))
    else:
        interval = interval_from_draws(draws_DC[:, column], float(means_C[column]), problems)
    return {"value": interval.estimate, "low": interval.low, "high": interval.high}


def _pgr(ratio: GapRatio) -> Row:
    return {
        "pgr": ratio.estimate, "pgr_low": ratio.low, "pgr_high": ratio.high, "pgr_null_because": ratio.reason,
    }  # fmt: skip
