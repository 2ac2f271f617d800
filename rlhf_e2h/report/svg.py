"""Matplotlib to SVG that is the same bytes every time and follows the page between light and dark.

Figures are drawn in marker colours. In the page a marker becomes a CSS variable, in the file beside the CSV it becomes
the light palette. Text stays text, in the fonts of the reader.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

# Okabe and Ito's palette for colour-blind readers, darkened where it would vanish on white
LIGHT = {
    "ink": "#1d2430", "muted": "#5d6675", "grid": "#dde1e7",
    "s0": "#6b7280", "s1": "#0072b2", "s2": "#c65102", "s3": "#00805d", "s4": "#a8487f", "s5": "#8f6a00",
}  # fmt: skip
SERIES = ("s1", "s2", "s3", "s4", "s5")
MARKER = {name: f"#0a0b{index + 16:02x}" for index, name in enumerate(LIGHT)}  # colours that no figure uses otherwise
SMALLEST_TEXT = 11  # px
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: widths are the same on every machine
    "font.size": 10.5,  # 11 px where the page is 390 px wide
    "axes.edgecolor": MARKER["grid"],
    "axes.labelcolor": MARKER["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlecolor": MARKER["ink"],
    "axes.titlelocation": "left",
    "text.color": MARKER["ink"],
    "xtick.color": MARKER["muted"],
    "ytick.color": MARKER["muted"],
    "grid.color": MARKER["grid"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


MARKERS = ("o", "s", "^", "D", "v")
LINES = ("-", "--", "-.")
GREY = {"majority": "--", "pass@n": ":", "base": "-"}  # what others are measured against


@dataclass(frozen=True)
class Look:
    """How one name is drawn."""

    colour: str
    marker: str
    line: str = "-"


class Palette:
    """One look for each name of a page, so that a policy or reward model has the same colour in every figure.

    A name that was not given gets the next free look when it is first asked for.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._looks: dict[str, Look] = {}
        for name in names:
            self[name]

    def __getitem__(self, name: str) -> Look:
        if name in GREY:
            return Look(MARKER["s0"], "", GREY[name])
        if name not in self._looks:
            index = len(self._looks)
            turn, place = divmod(index, len(SERIES))
            # After one turn of the colours, marker and line tell two names of one colour apart.
            marker, line = MARKERS[(place + turn) % len(MARKERS)], LINES[turn % len(LINES)]
            self._looks[name] = Look(MARKER[SERIES[place]], marker, line)
        return self._looks[name]


def new_figure(width: float = 4.7, height: float = 3.4) -> tuple[Figure, Any]:
    """A figure of one axes in inches, without pyplot and its global state. Call it under `styled()`."""
    figure, ((axes,),) = new_grid(1, 1, width, height)
    return figure, axes


def new_grid(rows: int, columns: int, width: float = 4.7, height: float = 3.4) -> tuple[Figure, Any]:
    """The same with several axes, returned as an array of shape (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.patch.set_alpha(0)
        axes.grid(axis="y")
        axes.tick_params(length=0)
    return figure, grid


def percent_axis(axes: Any) -> None:
    """Shares of 1 on the y axis, shown in percent."""
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def samples_axis(axes: Any, sizes: Sequence[int]) -> None:
    """Numbers of samples on a logarithmic x axis, with a tick at each."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.set_xlabel("samples")


def styled(name: str) -> Any:
    """A context in which figures have our style and ids that depend on `name` alone."""
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": name})


def to_svg(figure: Figure, name: str, label: str) -> tuple[str, str]:
    """(SVG for the page, SVG as a file of its own).

    `name` goes before every id, so that several figures can stand in one page; `label` is read to those who cannot see.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*?sans-serif)?", FONTS, svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", svg)
    page = _in_page(svg, label)
    return _recolour(page, {key: f"var(--{key})" for key in MARKER}), _recolour(svg, LIGHT)


def adapt_svg(svg: str, prefix: str, label: str = "") -> str:
    """An SVG file in the light palette, for the page: ids behind `prefix`, scaling, following light and dark."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for key, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{key})")
    return _in_page(svg, label)


def _in_page(svg: str, label: str) -> str:
    found = re.search(r'<svg [^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>', svg)
    if found is None:
        raise ValueError("a figure without viewBox cannot be scaled to the page")
    # Narrower than this its text would be under 11 px; a wider figure scrolls in its box.
    least = math.floor(float(found[1]) * SMALLEST_TEXT / STYLE["font.size"])
    opening = (
        f'<svg viewBox="0 0 {found[1]} {found[2]}" role="img" aria-label="{_attribute(label)}" '
        f'style="min-width: {least}px">'
    )
    page = svg[: found.start()] + opening + svg[found.end() :]
    return re.sub(r"\bxlink:href=", "href=", page)


def _recolour(svg: str, colours: dict[str, str]) -> str:
    for key, marker in MARKER.items():
        svg = svg.replace(marker, colours[key])
    return svg


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
