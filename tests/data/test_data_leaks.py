"""Near-duplicates: the join against brute force, and the kinds of pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_e2h.data.leaks import Leak, find_leaks, jaccard, shingles, similar_pairs


def test_shingles() -> None:
    assert shingles("Find $x_1$ NOW") == {"find $ x", "$ x _", "x _ 1", "_ 1 $", "1 $ now"}
    assert shingles("\\sin 30") == {"\\sin 30"}
    assert shingles("") == {""}


def test_jaccard() -> None:
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 2 / 4
    assert jaccard(frozenset(), frozenset()) == 1


TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), max_size=6)


@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.5, 0.75, 0.8, 1.0]))
def test_join_finds_what_brute_force_finds(left: list[str], right: list[str], threshold: float) -> None:
    expected = {
        (i, j)
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if len(shingles(a) & shingles(b)) >= threshold * len(shingles(a) | shingles(b)) - 1e-9
    }
    assert set(similar_pairs(left, right, threshold)) == expected


def test_kinds() -> None:
    base = "one two three four five six seven eight nine ten eleven twelve"
    left = [
        ("a", base),
        ("b", base.upper()),
        ("c", base + " thirteen"),
        ("d", "x 1 y 2 z"),
        ("e", "nothing alike at all"),
    ]
    right = [("t", base), ("u", "x 3 y 4 z")]
    # base has 10 shingles, base + " thirteen" has the same and one more: 10 / 11
    assert find_leaks(left, right, 0.8) == [
        Leak("a", "t", 1.0, "exact"),
        Leak("b", "t", 1.0, "spacing or case"),
        Leak("c", "t", 0.9091, "near"),
        Leak("d", "u", 0.0, "same but for numbers"),
    ]


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="use a similarity above 0 and at most 1"):
        find_leaks([], [], threshold)
