"""A study's place in the report page: a paragraph, a figure and its numbers, in a folder that `section.json` describes.

A stage calls `add_section(run.out, ...)`, once or several times; the report stage names it under `sections`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf_e2h.report.results import write_csv
from rlhf_e2h.report.svg import adapt_svg, styled, to_svg

SECTIONS_FILE = "section.json"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_KEYS = {"title", "paragraph", "figure", "csv", "caption", "open"}
_ACTIVE = re.compile(
    r"<script|<foreignObject|<[^>]*\son\w+\s*=|href\s*=\s*[\"'](?!#|data:image/)|url\((?!#)|@import", re.I
)


@dataclass(frozen=True)
class Section:
    """What `section.json` holds of one section; files are relative to its folder."""

    title: str
    paragraph: str  # plain text; a blank line starts a new paragraph
    figure: str | None = None  # SVG
    csv: str | None = None  # the numbers of the figure, or of the table alone
    caption: str = ""
    open: bool = False  # show the table without a click, for small ones


@dataclass(frozen=True)
class ReadSection:
    """A section with the content of its files, ready for the page."""

    section: Section
    anchor: str  # unique in the page
    svg: str | None
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    csv_text: str


def add_section(
    folder: Path,
    name: str,
    title: str,
    paragraph: str,
    columns: Sequence[str] = (),
    rows: Sequence[Mapping[str, Any]] = (),
    draw: Callable[[], Any] | None = None,
    caption: str = "",
    open: bool = False,
) -> Section:
    """Write NAME.csv, NAME.svg and a further entry of `section.json` into a stage's output folder.

    Args:
        name: lower case letters, digits and underscores; the files are called after it.
        paragraph: what was found, with numbers and intervals, in plain text; a blank line starts a new paragraph.
        columns, rows: the numbers; a key that a row lacks, or None, is an empty cell.
        draw: returns a matplotlib figure made by `report.svg.new_figure`, drawn in the colours of `report.svg.MARKER`.
        open: show the table without a click.

    Raises:
        ValueError: a name that cannot be used, or a figure without numbers.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"section name {name!r} is not allowed; use lower case letters, digits and underscores")
    if draw and not rows:
        raise ValueError(f"section {name!r} has a figure and no numbers; give the rows that it shows")
    folder.mkdir(parents=True, exist_ok=True)
    if draw:
        with styled(name):
            _, file_svg = to_svg(draw(), name, f"{title}. {caption}")
        (folder / f"{name}.svg").write_text(file_svg, encoding="utf-8")
    if rows:
        write_csv(folder / f"{name}.csv", columns, [dict(row) for row in rows])
    made = Section(title, paragraph, f"{name}.svg" if draw else None, f"{name}.csv" if rows else None, caption, open)
    kept = [asdict(one) for one in _described(folder)] if (folder / SECTIONS_FILE).is_file() else []
    text = json.dumps([*kept, asdict(made)], indent=1, ensure_ascii=False)
    (folder / SECTIONS_FILE).write_text(text + "\n", encoding="utf-8")
    return made


def read_sections(folders: Sequence[tuple[str, Path]]) -> list[ReadSection]:
    """The sections of (label, folder) pairs, in order; the label (such as "seed 1") goes behind a title used twice.

    Raises:
        FileNotFoundError: a folder without `section.json`, or a file that it names is missing.
        ValueError: an entry with wrong keys, or a figure that would run code or fetch something.
    """
    found = [(label, folder, section) for label, folder in folders for section in _described(folder)]
    titles = [section.title for _, _, section in found]
    read = []
    for number, (label, folder, section) in enumerate(found):
        if titles.count(section.title) > 1 and label:
            section = Section(**(asdict(section) | {"title": f"{section.title} ({label})"}))
        anchor = f"section-{number}"
        columns, rows, text = _table(folder, section.csv)
        read.append(ReadSection(section, anchor, _figure(folder, section, anchor), columns, rows, text))
    return read


def _described(folder: Path) -> list[Section]:
    path = folder / SECTIONS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `sections` names stages that write one (report/section.py)")
    data = json.loads(path.read_text(encoding="utf-8"))
    entries = data if isinstance(data, list) else [data]
    for entry in entries:
        wrong = sorted(set(entry) - _KEYS) or sorted({"title", "paragraph"} - set(entry))
        if wrong:
            raise ValueError(f"{path}: key {wrong[0]!r} is unknown or missing; allowed: {', '.join(sorted(_KEYS))}")
    return [Section(**entry) for entry in entries]


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise FileNotFoundError(f"{path}: named in {SECTIONS_FILE}, but no file of this folder")
    return path


def _figure(folder: Path, section: Section, anchor: str) -> str | None:
    if not section.figure:
        return None
    path = _inside(folder, section.figure)
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :] if "<svg" in svg else ""
    active = _ACTIVE.search(svg)
    if not svg or active:
        problem = f"holds {active[0]!r}" if active else "is no SVG"
        raise ValueError(f"{path}: {problem}; a figure of the page is a plain SVG, for example of `add_section`")
    return adapt_svg(svg, anchor, f"{section.title}. {section.caption}")


def _table(folder: Path, name: str | None) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str]:
    if not name:
        return (), (), ""
    text = _inside(folder, name).read_text(encoding="utf-8")
    lines = [tuple(line) for line in csv.reader(text.splitlines())]
    return (lines[0], tuple(lines[1:]), text) if lines else ((), (), text)
