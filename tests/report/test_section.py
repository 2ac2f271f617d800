"""Sections of studies: written by a stage, shown by the page, and nothing in them that runs or fetches."""

from __future__ import annotations

import csv
import json
import re

import pytest
from conftest import ABOUT

from rlhf_e2h.report.outcomes import Outcomes
from rlhf_e2h.report.page import PageInput, render_page
from rlhf_e2h.report.results import build_results
from rlhf_e2h.report.section import SECTIONS_FILE, add_section, read_sections
from rlhf_e2h.report.svg import MARKER, new_figure

ROWS = [{"level": 1, "accuracy": 0.5}, {"level": 2, "accuracy": None}]


def draw():
    figure, axes = new_figure()
    axes.plot([1, 2], [0.5, 0.25], color=MARKER["s1"])
    axes.set_xlabel("accuracy on = level")
    return figure


def study(folder, title="Difficulty", **more):
    return add_section(folder, "difficulty", title, "First <b>.\n\nSecond.", ("level", "accuracy"), ROWS, draw, **more)


def page_of(folders):
    return render_page(PageInput(build_results(Outcomes()), ABOUT, sections=read_sections(folders)))


def test_files_of_a_section(tmp_path):
    study(tmp_path)
    add_section(tmp_path, "speed", "Speed", "Nothing to draw.")
    kept = json.loads((tmp_path / SECTIONS_FILE).read_text())
    assert [one["title"] for one in kept] == ["Difficulty", "Speed"] and kept[1]["figure"] is None
    with (tmp_path / "difficulty.csv").open() as file:
        assert list(csv.reader(file)) == [["level", "accuracy"], ["1", "0.500000"], ["2", ""]]


def test_a_study_alone_makes_a_page(tmp_path):
    study(tmp_path, open=True)
    html = page_of([("seed 0", tmp_path)])
    assert "<h2>Difficulty</h2>" in html and "First &lt;b&gt;." in html and "<p>Second.</p>" in html
    assert "var(--s1)" in html and 'download="difficulty.csv"' in html and "<td>0.500000</td>" in html
    assert 'id="policies"' not in html and "Nothing to compare" not in html


def test_two_seeds_are_told_apart(tmp_path):
    for seed in (0, 1):
        study(tmp_path / str(seed))
    html = page_of([(f"seed {seed}", tmp_path / str(seed)) for seed in (0, 1)])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert "Difficulty (seed 0)" in html and "Difficulty (seed 1)" in html
    assert len(ids) == len(set(ids)) and "section-1" in ids
    for used in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html):
        assert "".join(used) in ids


@pytest.mark.parametrize(
    "hostile",
    [
        "<svg><script>alert(1)</script></svg>",
        '<svg><image href="https://example.org/x.png"/></svg>',
        '<svg onload="alert(1)"></svg>',
        '<svg><path style="fill:url(https://example.org)"/></svg>',
        "no figure",
    ],
)
def test_a_figure_that_acts_is_refused(tmp_path, hostile):
    study(tmp_path)
    (tmp_path / "difficulty.svg").write_text(hostile)
    with pytest.raises(ValueError, match=r"difficulty.svg: (holds|is no SVG)"):
        read_sections([("", tmp_path)])


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"section.json: no such file"):
        read_sections([("", tmp_path)])
    with pytest.raises(ValueError, match="lower case letters"):
        add_section(tmp_path, "A b", "t", "p")
    with pytest.raises(ValueError, match="no numbers"):
        add_section(tmp_path, "a", "t", "p", draw=draw)
    (tmp_path / SECTIONS_FILE).write_text('{"title": "t", "paragraph": "p", "figures": "x.svg"}')
    with pytest.raises(ValueError, match="key 'figures' is unknown"):
        read_sections([("", tmp_path)])
    (tmp_path / SECTIONS_FILE).write_text('{"title": "t", "paragraph": "p", "csv": "../outside.csv"}')
    (tmp_path.parent / "outside.csv").write_text("a\n1\n")
    with pytest.raises(FileNotFoundError, match="no file of this folder"):
        read_sections([("", tmp_path)])
