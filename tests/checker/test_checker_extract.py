"""Where the answer stands in a text."""

import time

import pytest
from checker_texts import EXTRACT

from rlhf_e2h.checker import extract, judge
from rlhf_e2h.checker.extract import box_run, boxes


@pytest.mark.parametrize(("text", "answer"), EXTRACT, ids=[repr(text[:30]) for text, _ in EXTRACT])
def test_extract(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize("text", [text for text, answer in EXTRACT if answer is not None])
def test_extracting_twice_changes_nothing(text):
    once = extract(text)
    assert extract(once) == once


def test_markers_only_leaves_unfinished_solutions_without_answer():
    assert extract("There are 12 ways", markers_only=True) is None
    assert extract("5", markers_only=True) is None
    assert extract("There are 12 ways. The answer is 12.", markers_only=True) == "12"


def test_boxes_in_order_with_places():
    text = r"a \boxed{1} b \fbox{\{2\}} c \boxed{3"
    assert [(box.content, text[box.start : box.end]) for box in boxes(text)] == [
        ("1", r"\boxed{1}"),
        (r"\{2\}", r"\fbox{\{2\}}"),
    ]


def test_box_run_ends_at_running_text():
    assert box_run(r"\boxed{9} is wrong; \boxed{1}, $\boxed{2}$ and \boxed{3}") == ["1", "2", "3"]
    assert box_run(r"\boxed{1} then \boxed{2}") == []


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 30_000 + "the answer is " * 10_000,
        r"\begin{align}" * 8_000,
        "1" * 100_000 + "x!",
        "\\(" * 50_000,
        "x+" * 50_000 + "!",
    ],
    ids=["boxes", "environments", "digits", "delimiters", "terms"],
)
def test_long_text_is_linear(text):
    started = time.monotonic()
    extract(text)
    judge.quick("5", text)
    assert time.monotonic() - started < 2.0
