"""The result table at the end of `e2h run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_e2h.report.tables import BANDS, decoding_table, policy_table
from rlhf_e2h.report.verdict import make_verdict

Row = Mapping[str, Any]


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print policies, decodings and what came out, in at most 100 columns.

    Args:
        results: what `results.json` holds.
        console: where to print; standard output if not given.
    """
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:  # a log file: wide enough that no name is folded
            console.width = 100
    seeds = results["seeds"]
    if not seeds:  # a study alone; its sections are in the page
        return
    about = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    policies = policy_table(results)
    if policies:
        console.print(_table(f"Greedy accuracy in %, {about}", "policy", policies, "SFT easy", _policy_name))
    decodings = decoding_table(results)
    for policy in dict.fromkeys(row["policy"] for row in decodings):
        rows = [row for row in decodings if row["policy"] == policy]
        title = f"Decoding {rows[0]['samples']} samples of {policy}, accuracy in %, {about}"
        console.print(_table(title, "decoding", rows, "majority", _decoding_name))
    verdict = make_verdict(results)
    console.print(Text(verdict.headline, style="bold"))
    for sentence in [*verdict.sentences, *verdict.cautions]:
        console.print(Text(sentence))


def _table(title: str, first: str, rows: list[Any], against: str, name: Any) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    table.add_column("labels", style="dim")
    for band in BANDS:
        table.add_column(band, justify="right", no_wrap=True)
    table.add_column(f"hard, against {against}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(name(row), row["labels"], *(_cell(row, band) for band in BANDS), _difference(row["difference"]))
    return table


def _policy_name(row: Row) -> str:
    return row["policy"]


def _decoding_name(row: Row) -> str:
    return row["decoding"].replace("_", " ") + (f", {row['reward_model']}" if row["reward_model"] else "")


def _cell(row: Row, band: str) -> Text:
    value = row["bands"][band]
    if not value:
        return Text("–", style="dim")
    low, high = (f"{100 * value[end]:.0f}" for end in ("ci_low", "ci_high"))  # not ±: 100.0 ±1.6 cannot be
    return Text.assemble(
        (f"{100 * value['accuracy']:.1f}", "bold" if band in row["best"] else ""), (f" {low}–{high}", "dim")
    )


def _difference(row: Row | None) -> Text:
    if row is None or row["estimate"] is None:
        return Text("–", style="dim")
    low, high = (f"{100 * row[key]:+.1f}" for key in ("low", "high"))
    clear = "green" if row["low"] > 0 else "red" if row["high"] < 0 else ""
    return Text.assemble((f"{100 * row['estimate']:+.1f}", clear), (f" [{low}, {high}]", "dim"))
