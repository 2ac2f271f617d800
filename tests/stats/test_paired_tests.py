"""Paired tests against written-out formulae; nulls with reasons."""

import math

import pytest

from rlhf_e2h.stats.paired_tests import paired_tests


def test_t_of_three_differences_by_hand():
    # differences .1 .2 .3: t = .2 / (.1 / sqrt 3) = 3.4641 with 2 degrees; p = 1 - t / sqrt(2 + t^2), two-sided
    t = 2 * math.sqrt(3)
    result = paired_tests([0.6, 0.8, 1.0], [0.5, 0.6, 0.7])
    assert result.difference == pytest.approx(0.2)
    assert result.t_p == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-6)
    # all 3 signs positive: 2 * (1/2)^3
    assert result.wilcoxon_p == pytest.approx(0.25)
    assert paired_tests([0.6, 0.8, 1.0], [0.5, 0.6, 0.7], "greater").wilcoxon_p == pytest.approx(0.125)


def test_no_test_has_a_reason():
    assert paired_tests([0.5], [0.4]).reason.startswith("one pair")
    assert paired_tests([0.5, 0.6], [0.5, 0.6]).reason == "all differences are 0"
    same = paired_tests([0.5, 0.75], [0.25, 0.5])
    assert same.t_p is None and same.wilcoxon_p == pytest.approx(0.5) and "no spread" in same.reason


def test_bad_input():
    with pytest.raises(ValueError, match="both must be"):
        paired_tests([0.5], [0.4, 0.3])
    with pytest.raises(ValueError, match="NaN"):
        paired_tests([0.5, math.nan], [0.4, 0.3])
