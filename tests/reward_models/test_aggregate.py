"""Golden values from the reference notes on Sun et al. 2024, appendix L, and appendix P for the product."""

import pytest

from reward_models.aggregate import AGGREGATIONS, aggregate

GOLDEN = {
    "min": 0.5,
    "max": 0.9,
    "prod": 0.36,
    "mean": 0.733333,
    "mean_logit": 0.767546,
    "mean_odd": 4.666667,
    "last": 0.5,
}


def test_every_aggregation_has_a_golden_value():
    assert set(GOLDEN) == set(AGGREGATIONS)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    assert aggregate([0.9, 0.8, 0.5], name) == pytest.approx(GOLDEN[name], abs=1e-6)


def test_prod_of_appendix_p():
    assert (
        round(aggregate([0.98, 0.98, 0.98, 0.98, 0.79], "prod"), 2) == 0.73
    )  # 0.7287; the paper rounds unrounded scores
    assert aggregate([0.97, 0.97, 0.28, 0.11, 0.07, 0.03], "prod") == pytest.approx(6.086e-5, rel=1e-3)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_saturated_probabilities_stay_finite(name):
    assert 0 <= aggregate([0.0, 1.0], name) < float("inf")


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        ([0.5], "median", "median.*min, max"),
        ([], "min", "at least one"),
        ([float("nan")], "min", r"\[0, 1\]"),
        ([-0.3, 2.0], "prod", "sigmoid"),
    ],
)
def test_bad_input(values, name, message):
    with pytest.raises(ValueError, match=message):
        aggregate(values, name)
