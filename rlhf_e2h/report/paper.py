"""Our results laid out as the paper's tables and figures: published value, ours, and the difference with its interval.

A difference is made only where both were measured on as many problems of the slice (MATH500). The paper gives no
intervals, so its side gets the Wilson interval of its number of problems, and the difference is Newcombe's hybrid score
interval (Newcombe 1998, method 10) of two independent proportions: pairing is impossible without the paper's outcomes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_e2h.records import Row
from rlhf_e2h.report.paper_apps import table_3
from rlhf_e2h.report.published import QUALITY, SETUPS, TABLE_1, TABLE_2, TABLE_9, TABLE_10, published, setup_of
from rlhf_e2h.report.sources import read_json
from rlhf_e2h.report.tables import index_rows
from rlhf_e2h.stats.intervals import wilson

COLUMNS = (
    "table", "row", "column", "slice", "published", "published_n", "ours", "ours_low", "ours_high", "n", "seeds",
    "difference", "difference_low", "difference_high", "reason",
)  # fmt: skip
DECODINGS = {"majority": "majority", "weighted_vote": "weighted vote", "best_of_n": "best-of-n"}
NOT_RUN = "not in this run"
DEFAULT_SETUP = "7b-prm800k"


@dataclass
class Run:
    """One finished report, and the setup of the paper that it is put beside."""

    name: str
    setup: str
    results: Mapping[str, Any]
    quality: Sequence[Row] = ()
    rows: Mapping[tuple[Any, ...], Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = index_rows(self.results)

    def find(
        self, policies: Sequence[str], decoding: str, samples: int, level: str, reward_model: str | None = None
    ) -> Row | None:
        """The first of our conditions among the names that was evaluated."""
        keys = ((policy, decoding, reward_model, samples, level) for policy in policies)
        return next((self.rows[key] for key in keys if key in self.rows), None)


def read_run(place: Path, setup: str | None = None) -> Run:
    """A run folder (its newest report), a report folder, or a `results.json`.

    Raises:
        FileNotFoundError: no finished report there.
        ValueError: a setup that the paper does not have.
    """
    if setup is not None and setup not in SETUPS:
        raise ValueError(f"setup {setup!r} is not in the paper; allowed: {', '.join(SETUPS)}")
    found = [place] if place.is_file() else [place / "results.json", *place.glob("report*/*/results.json")]
    found = [file for file in found if file.is_file()]
    if not found:
        raise FileNotFoundError(f"{place}: no finished report there; run the recipe to its end, or give its run folder")
    file = max(found, key=lambda one: one.stat().st_mtime)
    about: Row = next((read_json(one / "run.json") for one in file.parents if (one / "run.json").is_file()), {})
    name = about.get("recipe") or file.parent.name
    results = json.loads(file.read_text(encoding="utf-8"))
    return Run(name, setup or setup_of(name) or DEFAULT_SETUP, results, results.get("quality", ()))


def beside(published_percent: float | None, published_n: int, ours: Row | None, found: str = "") -> Row:
    """One cell: both values as shares of 1, and the difference or the reason why there is none.

    Args:
        ours: a row of `results.json` with accuracy, ci_low, ci_high, n.
    """
    cell: Row = dict.fromkeys(COLUMNS[4:])
    cell |= {"published": None if published_percent is None else published_percent / 100, "published_n": published_n}
    if ours is None:
        return cell | {"reason": found or NOT_RUN}
    value = {"ours": ours["accuracy"], "ours_low": ours["ci_low"], "ours_high": ours["ci_high"], "n": ours["n"]}
    cell |= value | {"seeds": ours["seed"]}
    if published_percent is None:
        return cell | {"reason": "not in the paper"}
    if ours["n"] != published_n:
        return cell | {"reason": f"another test set: {ours['n']} problems here, {published_n} there"}
    theirs = wilson(published_percent / 100 * published_n, published_n)
    estimate = ours["accuracy"] - theirs.estimate
    low = estimate - math.hypot(ours["accuracy"] - ours["ci_low"], theirs.high - theirs.estimate)
    high = estimate + math.hypot(ours["ci_high"] - ours["accuracy"], theirs.estimate - theirs.low)
    return cell | {"difference": estimate, "difference_low": low, "difference_high": high, "reason": None}


def paper_rows(runs: Sequence[Run]) -> list[Row]:
    """Every cell of every table and curve, flat, as `paper.csv` holds them."""
    parts = (_table_1, _table_2, _table_3, _table_9, _table_10, _curves, _slices)
    return [row for run in runs for part in parts for row in part(run)]


def _cell(run: Run, table: str, row: str, column: str, level: str, cell: Row) -> Row:
    return {"run": run.name, "setup": run.setup, "table": table, "row": row, "column": column, "slice": level} | cell


def _table_1(run: Run) -> Iterator[Row]:
    """Generators: greedy and majority of 16 and of 256, all problems."""
    table, n = published()["table1"].get(run.setup, {}), published()["problems"]["all"]
    for key, (title, names) in TABLE_1.items() if table else ():
        for index, (decoding, samples) in enumerate((("greedy", 1), ("majority", 16), ("majority", 256))):
            column = "greedy" if samples == 1 else f"majority of {samples}"
            yield _cell(run, "Table 1", title, column, "all",
                        beside(table[key][index], n, run.find(names, decoding, samples, "all")))  # fmt: skip


def _table_2(run: Run) -> Iterator[Row]:
    """Optimised policies, greedy: easy, hard, all."""
    table, problems = published()["table2"].get(run.setup, {}), published()["problems"]
    if run.setup in published()["table3"]:  # programs
        return
    for key, (title, names) in TABLE_2.items():
        for index, level in enumerate(("easy", "hard", "all")):
            theirs = table[key][index] if key in table else None
            ours = run.find(names, "greedy", 1, level)
            if theirs is not None or ours is not None:
                yield _cell(run, "Table 2", title, "greedy", level, beside(theirs, problems[level], ours))


def _table_3(run: Run) -> Iterator[Row]:
    """Programs: strict and average accuracy by difficulty (Tables 3 and 6)."""
    for *place, cell in table_3(run.setup, run.find, run.results.get("programs", ()), beside):
        table, row, column, level = place
        yield _cell(run, table, row, column, level, cell)


def _table_9(run: Run) -> Iterator[Row]:
    """Levels that SFT was trained on, greedy: all and hard problems."""
    table, problems = published()["table9"].get(run.setup, {}), published()["problems"]
    for key, (title, names) in TABLE_9.items() if table else ():
        for index, level in enumerate(("all", "hard")):
            ours = run.find(names, "greedy", 1, level)
            yield _cell(run, "Table 9", title, "greedy", level, beside(table[key][index], problems[level], ours))


def _table_10(run: Run) -> Iterator[Row]:
    """Reward models: accuracy on balanced sets and AUC, of steps and outcomes.

    Ours are expected accuracies on a balanced set, with intervals over problems. The paper does not say how many steps
    and solutions its sets have, so a difference has no interval and is not made.
    """
    theirs = published()["table10"] if run.setup == "7b-prm800k" else {}
    ours = {row["name"]: row for row in run.quality}
    for kind, title in TABLE_10.items() if run.setup not in published()["table3"] else ():
        for metric, (label, own) in QUALITY.items():
            printed = theirs.get(kind, {}).get(metric)
            share = printed / 100 if printed is not None and metric.endswith("accuracy") else printed
            row = next((ours[name] for name in (kind, f"{kind}_easy") if name in ours), {})
            measured, ends = row.get(f"{own}_all"), row.get(f"{own}_all_ci") or (None, None)
            reason = "the paper does not say how large its balanced sets are" if measured is not None else NOT_RUN
            cell = dict.fromkeys(COLUMNS[4:]) | {"published": share, "ours": measured, "reason": reason}
            cell |= {"ours_low": ends[0], "ours_high": ends[1]}
            yield _cell(run, "Table 10", title, label, "all", cell)


def _curves(run: Run) -> Iterator[Row]:
    """Figures 4 to 6 and 8 to 13: accuracy over the number of samples, for every published and every own point."""
    problems = published()["problems"]
    for curve in published()["curves"]:
        if curve["generator"] != run.setup:
            continue
        title, names = _curve_title(curve), ("sft_easy",)
        own_size = curve["evaluator"] in (None, run.setup.split("-")[0])
        kind, size = curve["reward_model"], "" if own_size else f"_{curve['evaluator']}"
        models = (None,) if kind is None else (f"{kind}{size}", f"{kind}_easy{size}")
        for samples, values in curve["points"].items():
            for level, value in zip(("easy", "hard", "all"), values, strict=True):
                ours = None
                for model in models:
                    ours = ours or run.find(names, curve["decoding"], int(samples), level, model)
                found = "" if own_size else f"needs a {curve['evaluator'].upper()} reward model, named {models[0]}"
                figure = f"Figure {curve['figure']}" if curve["figure"] else "Majority"
                yield _cell(run, figure, title, samples, level, beside(value, problems[level], ours, found))


def _curve_title(curve: Mapping[str, Any]) -> str:
    words = DECODINGS[curve["decoding"]]
    return (
        f"{words} by the {curve['evaluator'].upper()} {curve['reward_model'].upper()}" if curve["evaluator"] else words
    )


def _slices(run: Run) -> Iterator[Row]:
    """Figures 19 to 21: by level, by subject, and pass@n by level."""
    size = run.setup.split("-")[0]
    key, problems = f"{run.setup}/{size}", published()["problems"]
    for decoding, values in published()["levels"].get(key, {}).items():
        for level, value in values.items():
            model = None if decoding == "majority" else "oprm"
            ours = run.find(("sft_easy",), decoding, 1024, level, model)
            yield _cell(run, "Figure 19", DECODINGS[decoding], "1024", level, beside(value, problems[level], ours))
    subjects = {(row["decoding"], row["reward_model"], row["samples"], row["subject"]): row
                for row in run.results.get("subjects", ()) if row["policy"] == "sft_easy"}  # fmt: skip
    for decoding, values in published()["subjects"].get(key, {}).items():
        for subject, value in values.items():
            ours = subjects.get((decoding, None if decoding == "majority" else "oprm", 1024, subject))
            cell = beside(value, published()["subject_problems"][subject], ours)
            yield _cell(run, "Figure 20", DECODINGS[decoding], "1024", subject, cell)
    for samples, values in published()["pass_at_n"].get(run.setup, {}).items():
        for level, value in values.items():
            ours = run.find(("sft_easy",), "pass_at_n", int(samples), level)
            yield _cell(run, "Figure 21", "pass@n", samples, level, beside(value, problems[level], ours))
