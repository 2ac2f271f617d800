"""Graded samples of anyone to reranking curves: rows with problem, answer, verdict and scores in, figures out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.aggregate import aggregate
from reward_models.records import BadRecord
from reward_models.voting import METHODS, MISSING, SCORED, answer_classes, curve, is_missing

BOOTSTRAPS = 2000


@dataclass
class Bank:
    """K samples for each of P problems, as arrays; scores are None if no row has any."""

    problem_ids: list[str]
    classes_PK: NDArray[np.int64]  # noqa: N815
    correct_PK: NDArray[np.bool_]  # noqa: N815
    rank_PK: NDArray[np.float64] | None  # noqa: N815
    vote_PK: NDArray[np.float64] | None  # noqa: N815
    left_out: int  # samples beyond the number kept, and those of problems with fewer
    problems_left_out: int = 0  # problems with fewer samples than are kept


def build_bank(
    rows: Iterable[Mapping[str, Any]],
    rank_by: str = "",
    vote_by: str = "",
    source: str = "rows",
    same: Callable[[str, str], bool] | None = None,
    scores: str = "",
) -> Bank:
    """Group rows by `problem_id`, in file order.

    A row needs `correct` and `answer` (null or "": missing), or `answer_class` in its place, and may have `score` or
    `step_scores`. Answers are grouped as strings or by the equality `same`, and by `answer_class` where rows have it.
    `rank_by` and `vote_by` name aggregations of `step_scores`; left empty, `score` is used where rows have it, else
    min ranks and prod votes, the paper's choice. `scores` names one of several reward models, where `step_scores`
    maps names to lists. Every problem keeps the same number of samples, that with which most samples are used:
    problems with fewer are left out, as are the samples beyond it, and both are counted.

    Raises:
        BadRecord: `source:line: reason` for a row that cannot be used.
        ValueError: no row at all.
    """
    problems: dict[str, list[_Sample]] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{source}:{number}"
        if same is not None and "answer_class" in row:
            raise BadRecord(f"{where}: has answer_class, but an equality of answers was given as well; use one of them")
        key = str(_field(row, "problem_id", where))
        problems.setdefault(key, []).append(_sample(of_model(row, scores, where), rank_by, vote_by, where))
    if not problems:
        raise ValueError(f"{source} has no rows; give one JSON object a sample")
    samples = _samples_kept([len(entries) for entries in problems.values()])
    chosen = {key: entries[:samples] for key, entries in problems.items() if len(entries) >= samples}
    kept = list(chosen.values())
    total = sum(len(entries) for entries in problems.values())
    scored = [entry.rank is not None for entries in kept for entry in entries]
    if any(scored) and not all(scored):
        raise BadRecord(f"{source}: {scored.count(False)} of {len(scored)} rows have no score; score them all, or none")
    return Bank(
        list(chosen),
        np.array([answer_classes([entry.answer for entry in entries], same) for entries in kept]),
        np.array([[entry.correct for entry in entries] for entries in kept]),
        np.array([[entry.rank for entry in entries] for entries in kept], dtype=float) if all(scored) else None,
        np.array([[entry.vote for entry in entries] for entries in kept], dtype=float) if all(scored) else None,
        total - samples * len(chosen),
        len(problems) - len(chosen),
    )


def _samples_kept(counts: Sequence[int]) -> int:
    """The n for which n times the problems with at least n samples is largest; of equals the smallest."""
    return max(sorted(set(counts)), key=lambda n: n * sum(count >= n for count in counts))


@dataclass(frozen=True)
class _Sample:
    answer: str | None
    correct: bool
    rank: float | None
    vote: float | None


def of_model(row: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The row with the step scores of one of the reward models that scored it."""
    found = row.get("step_scores")
    if not isinstance(found, Mapping):
        if name:
            raise BadRecord(f"{where}: step_scores has no names, so {name!r} cannot be chosen; leave it out")
        return row
    if name not in found:
        raise BadRecord(f"{where}: step_scores are of {sorted(found)}; choose one with --scores (given: {name!r})")
    return {**row, "step_scores": found[name], "score": None}


def _sample(row: Mapping[str, Any], rank_by: str, vote_by: str, where: str) -> _Sample:
    correct = _field(row, "correct", where)
    if not isinstance(correct, bool) and correct not in (0, 1):
        raise BadRecord(f"{where}: correct is {correct!r}; expected true or false")
    return _Sample(
        _answer(row, where),
        bool(correct),
        _row_score(row, rank_by, "min", where),
        _row_score(row, vote_by, "prod", where),
    )


def _answer(row: Mapping[str, Any], where: str) -> str | None:
    """The answer or its class as text; None for null, NaN, blanks, and class -1, which says "no answer"."""
    value = row["answer_class"] if "answer_class" in row else _field(row, "answer", where)
    nothing = isinstance(value, float) and math.isnan(value)
    if nothing or ("answer_class" in row and value == MISSING):
        return None
    return None if value is None or is_missing(str(value)) else str(value)


def summarise(bank: Bank, sizes: Sequence[int] | None = None, draws: int = 64, seed: int = 0) -> dict[str, Any]:
    """Mean accuracy over problems for each method and n, as `{"majority": {"8": 0.93}, ...}`.

    `interval` holds 95 % bootstrap intervals over problems in the same shape, `against_majority` the paired differences
    of the methods that use scores to the majority of the same samples as [difference, low, high], `problems` and
    `samples` the counts.
    """
    curves = curve(
        bank.classes_PK,
        bank.correct_PK,
        bank.rank_PK,
        vote_scores_PK=bank.vote_PK,
        sizes=sizes,
        draws=draws,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    problems, samples = bank.correct_PK.shape
    drawn = rng.integers(0, problems, (BOOTSTRAPS, problems))
    result: dict[str, Any] = {name: {} for name in METHODS if name in curves}
    intervals: dict[str, dict[str, list[float]]] = {name: {} for name in result}
    differences: dict[str, dict[str, list[float]]] = {name: {} for name in SCORED if name in curves}
    for name, by_n in curves.items():
        for n, accuracy_P in by_n.items():
            result[name][str(n)] = float(accuracy_P.mean())
            intervals[name][str(n)] = _ends(accuracy_P, drawn)
            if name in differences:
                gain_P = accuracy_P - curves["majority"][n]
                differences[name][str(n)] = [float(gain_P.mean()), *_ends(gain_P, drawn)]
    counts = {"problems": problems, "samples": samples}
    return {**result, "interval": intervals, "against_majority": differences, **counts}


def _ends(values_P: NDArray[np.float64], drawn_DP: NDArray[np.int64]) -> list[float]:
    low, high = np.quantile(values_P[drawn_DP].mean(axis=1), [0.025, 0.975])
    return [float(low), float(high)]


def table(summary: Mapping[str, Any]) -> str:
    """The summary as text: a line for each n, a column for each method, and what scores add to a majority."""
    methods = [name for name in METHODS if name in summary]
    lines = ["".join(["n".rjust(6), *(name.rjust(16) for name in methods)])]
    for n in summary[methods[0]]:
        lines.append("".join([n.rjust(6), *(f"{summary[name][n]:16.4f}" for name in methods)]))
    for name, by_n in summary["against_majority"].items():
        n, (gain, low, high) = list(by_n.items())[-1]
        lines.append(f"{name} against majority, n = {n}: {gain:+.4f} [{low:+.4f}, {high:+.4f}]")
    return "\n".join(lines)


def _field(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise BadRecord(f"{where}: missing field {name!r}; the row has {sorted(row)}")
    return row[name]


def _row_score(row: Mapping[str, Any], by: str, default: str, where: str) -> float | None:
    steps, score = row.get("step_scores"), row.get("score")
    if steps is None and score is None:
        return None
    if by or score is None:
        if not isinstance(steps, list):
            raise BadRecord(f"{where}: an aggregation needs step_scores, a list of probabilities, found {steps!r}")
        try:
            return aggregate(steps, by or default)
        except (ValueError, TypeError) as error:
            raise BadRecord(f"{where}: {error}") from None
    if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score):
        raise BadRecord(f"{where}: score is {score!r}; expected a number")
    return float(score)
