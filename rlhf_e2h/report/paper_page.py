"""`e2h report --paper`: our results beside the paper's, as a page, a CSV and a table in the terminal."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_e2h.report.figures import Plot, make_plot
from rlhf_e2h.report.page import template_environment
from rlhf_e2h.report.paper import COLUMNS, Row, Run, paper_rows, read_run
from rlhf_e2h.report.published import SETUPS, published
from rlhf_e2h.report.results import write_csv
from rlhf_e2h.report.svg import MARKER, new_figure, percent_axis, samples_axis

OUT = "paper"
TABLES = ("Table 1", "Table 2", "Table 3", "Table 6", "Table 9", "Table 10")
SHOWN_CURVES = ("Figure 4", "Figure 5", "Figure 6", "Figure 8", "Figure 9", "Figure 10", "Figure 13")


def make_paper(places: Sequence[str], out: str | None = None, setup: str | None = None) -> Path:
    """Write paper.html, paper.csv and the figures for finished runs; returns the page's path.

    Args:
        places: run folders, report folders or results.json files; every run below `runs` if empty.
        out: folder to write; `paper` in the run folder if one run is given, else `runs/paper`.
        setup: the paper's setup to compare with, where the recipe's name does not say.

    Raises:
        FileNotFoundError: a place without a finished report.
    """
    found = [Path(place) for place in places] or sorted(
        {file.parents[2] for file in Path("runs").glob("*/report*/*/results.json")}
    )
    if not found:
        raise FileNotFoundError("runs: no finished report in any run folder; run a recipe to its end first")
    runs = [read_run(place, setup) for place in found]
    folder = Path(out) if out else (found[0] if len(found) == 1 and found[0].is_dir() else Path("runs")) / OUT
    folder.mkdir(parents=True, exist_ok=True)
    rows = paper_rows(runs)
    write_csv(folder / "paper.csv", ("run", "setup", *COLUMNS), rows)
    figures = [plot for run in runs for plot in _figures(run, rows)]
    for plot in figures:
        plot.write(folder / "figures")
    page = folder / "paper.html"
    page.write_text(render_paper(runs, rows, figures), encoding="utf-8")
    return page


def render_paper(runs: Sequence[Run], rows: Sequence[Row], figures: Sequence[Plot] = ()) -> str:
    """The page as text."""
    names = (*TABLES, "Figure 19", "Figure 20", "Figure 21")
    mine = {run.name: [row for row in rows if row["run"] == run.name] for run in runs}
    return (
        template_environment()
        .get_template("paper.html")
        .render(
            runs=runs,
            setups=SETUPS,
            source=published()["source"],
            tables={
                (run, name): _grid([row for row in found if row["table"] == name])
                for run, found in mine.items()
                for name in names
            },
            figures=figures,
            compared={run: sum(row["difference"] is not None for row in found) for run, found in mine.items()},
        )
    )


def _grid(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows by columns: {columns: [...], rows: {title: {column: cell}}}, in the order of the paper's table."""
    placed = [(*_place(row), row) for row in rows]
    grid: dict[str, dict[str, Row]] = {}
    for title, column, row in placed:
        grid.setdefault(title, {})[column] = row
    return {"columns": list(dict.fromkeys(column for _, column, _ in placed)), "rows": grid}


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    """(row title, column heading) of a cell; levels and subjects stand below each other."""
    if row["table"] in ("Table 3", "Table 6"):
        return f"{row['row']}, {row['column']}", row["slice"]
    if row["table"] in ("Table 2", "Table 9"):
        return row["row"], row["slice"]
    if row["table"].startswith("Table"):
        return row["row"], row["column"]
    title = f"level {row['slice']}" if row["slice"].isdigit() else row["slice"]
    return title, row["row"] if row["table"] != "Figure 21" else f"pass@{row['column']}"


def _figures(run: Run, rows: Sequence[Row]) -> list[Plot]:
    """One plot for each reward model of the paper's curves, hard and all problems: published dashed, ours solid."""
    mine = [row for row in rows if row["run"] == run.name]
    plots = []
    for figure in SHOWN_CURVES:
        drawn = [row for row in mine if row["table"] in ("Majority", figure)]
        for model in dict.fromkeys(_evaluator(row) for row in drawn if row["table"] == figure):
            for level in ("hard", "all"):
                chosen = [row for row in drawn if row["slice"] == level and _evaluator(row) in ("", model)]
                plots.append(_curve_plot(run, figure, model, level, chosen))
    return plots


def _evaluator(row: Mapping[str, Any]) -> str:
    """`the 7B OPRM` of `weighted vote by the 7B OPRM`; empty for majority."""
    return str(row["row"]).partition(" by ")[2]


def _curve_plot(run: Run, figure: str, model: str, level: str, rows: Sequence[Row]) -> Plot:
    ours = any(row["ours"] is not None for row in rows)
    columns = ("table", "row", "column", "slice", "published", "ours", "ours_low", "ours_high", "n", "reason")
    return make_plot(
        re.sub(r"\W", "_", f"{figure} {level} {model.split()[-1]} {run.name}".lower()),
        f"{figure}: {model}, {level} problems",
        "Dashed: the paper. " + ("Solid: ours, intervals shaded." if ours else "This run has no point of it."),
        columns,
        list(rows),
        lambda: _draw(rows),
    )


def _draw(rows: Sequence[Row]) -> Any:
    figure, axes = new_figure()
    colours = {"majority": MARKER["s0"], "weighted": MARKER["s1"], "best-of-n": MARKER["s2"]}
    for title in dict.fromkeys(row["row"] for row in rows):
        points = [row for row in rows if row["row"] == title]
        colour, label = colours[title.split()[0]], title.partition(" by ")[0]
        axes.plot([int(p["column"]) for p in points], [p["published"] for p in points], "--", color=colour, marker="o",
                  fillstyle="none", markersize=4, linewidth=1.2, label=f"{label}, paper")  # fmt: skip
        ours = [p for p in points if p["ours"] is not None]
        if ours:
            x = [int(p["column"]) for p in ours]
            axes.plot(x, [p["ours"] for p in ours], "-", color=colour, marker="o", label=f"{label}, ours")
            axes.fill_between(x, [p["ours_low"] for p in ours], [p["ours_high"] for p in ours], color=colour,
                              alpha=0.12, linewidth=0)  # fmt: skip
    samples_axis(axes, sorted({int(row["column"]) for row in rows}))
    percent_axis(axes)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def show_paper(page: Path, console: Console | None = None) -> None:
    """Print what a run has of the tables: published, ours, difference."""
    console = console or Console(highlight=False)
    with (page.parent / "paper.csv").open(encoding="utf-8") as file:
        cells = [cell for cell in csv.DictReader(file) if cell["ours"]]
    for run in dict.fromkeys(cell["run"] for cell in cells):
        for name in TABLES:
            mine = [cell for cell in cells if cell["run"] == run and cell["table"] == name]
            if mine:
                console.print(_terminal_table(f"{name}, {run}, in %", mine))
        reasons = dict.fromkeys(cell["reason"] for cell in cells if cell["run"] == run and cell["reason"])
        if reasons:
            console.print(Text("No difference where: " + "; ".join(reasons) + ".", "dim"))
    console.print(f"paper: {page}")


def _terminal_table(title: str, cells: Sequence[Mapping[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold", min_width=18)
    for heading in ("", "paper", "ours", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = ""
    for cell in cells:
        ours, difference = (_bounded(cell, key, sign) for key, sign in (("ours", ""), ("difference", "+")))
        row, place = _place(cell)
        table.add_row(row if row != last else "", place, _percent(cell["published"]), ours, difference)
        last = row
    return table


def _bounded(cell: Mapping[str, str], key: str, sign: str) -> str:
    value, low, high = (cell[name] for name in (key, f"{key}_low", f"{key}_high"))
    return _percent(value, sign) + (f" [{_percent(low, sign)}, {_percent(high, sign)}]" if low else "")


def _percent(value: str, sign: str = "") -> str:
    return f"{100 * float(value):{sign}.1f}" if value else "–"
