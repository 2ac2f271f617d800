"""The report page: one HTML file without any request to another, made from plain data."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rlhf_e2h.data.levels import EASY
from rlhf_e2h.report.comparisons import REFERENCE
from rlhf_e2h.report.compute_figure import compute_plot, method_table
from rlhf_e2h.report.figures import (
    Plot,
    curve_over_n,
    difference_forest,
    level_bars,
    seed_dots,
)
from rlhf_e2h.report.quality_figures import calibration_plot, hacking_plots, quality_by_level, roc_plots
from rlhf_e2h.report.results import main_seed
from rlhf_e2h.report.section import ReadSection
from rlhf_e2h.report.solutions import pick_rollouts, pick_solutions
from rlhf_e2h.report.svg import Palette
from rlhf_e2h.report.tables import (
    cost_table,
    decoding_table,
    manifest_table,
    policy_table,
    quality_table,
    slice_table,
)
from rlhf_e2h.report.training_figures import training_plots
from rlhf_e2h.report.verdict import make_verdict

Row = Mapping[str, Any]


@dataclass
class PageInput:
    """Everything that the page shows. Parts that a run does not have stay empty, and the page leaves them out."""

    results: Mapping[str, Any]  # what report.results.build_results made
    about: Mapping[str, Any]  # recipe, description, machine, versions, git, date, overrides
    manifest: Sequence[Row] = ()  # completion records of the stages
    quality: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # reward model -> metrics, one mapping a seed
    solutions: Sequence[Row] = ()  # scored and graded samples to choose from
    hacking: Sequence[Row] = ()  # policy, step (or None), level, score, accuracy
    training: Sequence[Row] = ()  # stage, kind, seed, step, metric, value: see `sources.training_curves`
    rollouts: Sequence[Row] = ()  # of PPO while it trained: see `sources.training_rollouts`
    sections: Sequence[ReadSection] = ()  # of studies
    settings: Mapping[str, str] = field(default_factory=dict)  # stage -> YAML
    easy_levels: Sequence[int] = EASY
    compute: Row = field(default_factory=dict)  # accuracy over compute: see `report.compute`
    roc: Sequence[Row] = ()  # of reward models on all problems: see `sources.roc`
    calibration: Sequence[Row] = ()  # of reward models on hard problems: see `sources.calibration`


def draw_figures(page: PageInput) -> dict[str, Plot]:
    """The figures that the data allow, by name, in the order of the page."""
    results, palette = page.results, make_palette(page)
    found = [
        difference_forest(results, "policy"),
        difference_forest(results, "decoding"),
        curve_over_n(results, "weighted_vote", palette),
        curve_over_n(results, "best_of_n", palette),
        compute_plot(page.compute, palette),
        level_bars(results, palette),
        seed_dots(results),
        *training_plots(page.training, palette),
        quality_by_level(page.quality, "step_auc", "Telling valid steps from invalid ones, by level (AUC)", palette),
        quality_by_level(
            page.quality, "outcome_auc", "Telling right solutions from wrong ones, by level (AUC)", palette
        ),
        calibration_plot(page.calibration, palette),
        *roc_plots(page.roc, palette),
        *hacking_plots(page.hacking, palette),
    ]
    return {plot.name: plot for plot in found if plot}


def make_palette(page: PageInput) -> Palette:
    """A colour for every reward model and policy, whichever figures it stands in."""
    rows = page.results["rows"]
    models = [row["reward_model"] for row in rows if row["reward_model"]]
    return Palette(dict.fromkeys([*page.quality, *models, *(row["policy"] for row in rows)]))


def template_environment() -> Environment:
    """Templates of the report with our filters; text from models and data is escaped."""
    environment = Environment(
        loader=PackageLoader("rlhf_e2h.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, signed=_signed, clock=_clock, thousands=_thousands, data_uri=_data_uri)
    environment.filters["flops"] = _flops
    environment.filters["unbroken"] = _unbroken
    environment.filters["csv_uri"] = _csv_uri
    return environment


def render_page(page: PageInput, figures: Mapping[str, Plot] | None = None) -> str:
    """The page as text. The same input gives the same bytes; dates come from `about`, never from the clock."""
    columns, quality = quality_table(page.quality)
    cost = cost_table(page.manifest)
    manifest = manifest_table(page.manifest)
    return (
        template_environment()
        .get_template("page.html")
        .render(
            about=_about(page.about),
            cost=cost,
            compute=method_table(page.compute),
            matched=page.compute.get("matched", ()),
            counted={key: sum(row[key] or 0 for row in cost) for key in ("tokens", "flops")},
            decodings=decoding_table(page.results),
            figures=draw_figures(page) if figures is None else figures,
            by_level=slice_table(page.results),
            by_subject=slice_table(page.results, "subject"),
            hard_n=_problems(page.results, "hard"),
            manifest=manifest,
            method=page.results["method"],
            pgr=page.results["pgr"],
            custom=[row for row in page.results["comparisons"] if row["kind"] == "custom"],
            policies=policy_table(page.results),
            quality=quality,
            quality_columns=columns,
            sections=page.sections,
            reference=REFERENCE,
            settings=page.settings,
            seeds=page.results["seeds"],
            solutions=pick_solutions(page.solutions, easy_levels=page.easy_levels),
            rollouts=pick_rollouts(page.rollouts, easy_levels=page.easy_levels),
            verdict=make_verdict(page.results, manifest),
        )
    )


def write_page(page: PageInput, folder: Path) -> Path:
    """Write `report.html` and `figures/NAME.svg` with `figures/NAME.csv` into a folder; returns the page's path."""
    figures = draw_figures(page)
    for plot in figures.values():
        plot.write(folder / "figures")
    path = folder / "report.html"
    path.write_text(render_page(page, figures), encoding="utf-8")
    return path


def _about(about: Mapping[str, Any]) -> dict[str, Any]:
    """What was run, with a value for everything that the template names."""
    git = about.get("git") or {}
    commit = git.get("commit")
    changed = " with uncommitted changes" if git.get("uncommitted_changes") else ""
    return {
        "recipe": about.get("recipe") or "unnamed recipe",
        "description": about.get("description") or "",
        "date": about.get("date") or "unknown",
        "machine": about.get("machine") or "unknown",
        "commit": f"{commit[:12]}{changed}" if commit else "not in a git checkout",
        "versions": about.get("versions") or {},
        "overrides": list(about.get("overrides") or ()),
    }


def _problems(results: Mapping[str, Any], level: str) -> int:
    seed = main_seed(results)
    return max((row["n"] for row in results["rows"] if row["level"] == level and row["seed"] == seed), default=0)


def _percent(value: float | None, decimals: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{decimals}f}".replace("-", "−")


def _unbroken(text: str) -> str:
    """No line begins with the sign of percent."""
    return text.replace(" %", "\u00a0%")


def _signed(value: float | None) -> str:
    """A difference in points with its sign, as `+1.2` or `−0.3`."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _clock(seconds: float) -> str:
    """`48 s`, `3 min 05 s` or `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _thousands(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _flops(value: float | None) -> str:
    """`3.2 TFLOP`, with the largest prefix that leaves at least 1."""
    if value is None:
        return "–"
    power = min(6, max(0, int(math.log10(value) // 3))) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}FLOP"


def _data_uri(plot: Plot) -> str:
    """The CSV of a figure as a link target, so that the page needs no file beside it."""
    lines = [",".join(plot.columns)]
    lines += [",".join(_csv_cell(row.get(column)) for column in plot.columns) for row in plot.rows]
    return _csv_uri("\n".join(lines) + "\n")


def _csv_uri(text: str) -> str:
    return f"data:text/csv;base64,{base64.b64encode(text.encode()).decode()}"


def _csv_cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text
