"""Seeded simulation: how often does the interval cover the truth? Quick for every run, full under the mark `slow`.

World: correct ~ Bernoulli(sigmoid(mean + difficulty_p + seed_effect_cs)), new problems and new seeds in every trial.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rlhf_e2h.stats.intervals import bootstrap_mean, paired_difference


def coverage(trials, problems, seeds, difficulty, seed_effect, draws):
    """Share of trials whose interval holds the truth: (one condition, difference of two that share the problems)."""
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(400_000, 2)) @ [difficulty, seed_effect]
    truth = [float(expit(mean + grid).mean()) for mean in (0.0, 0.5)]
    hits = np.zeros(2)
    for trial in range(trials):
        difficulty_P1 = rng.normal(0, difficulty, (problems, 1))
        correct = [
            (rng.random((problems, seeds)) < expit(mean + difficulty_P1 + rng.normal(0, seed_effect, seeds))).astype(
                float
            )
            for mean in (0.0, 0.5)
        ]
        one = bootstrap_mean(correct[0], draws, seed=trial)
        two = paired_difference(correct[1], correct[0], draws, seed=trial)
        hits += [not one.excludes(truth[0]), not two.excludes(truth[1] - truth[0])]
    return hits / trials


def test_quick_coverage():
    one, difference = coverage(200, 100, 1, 1.5, 0.0, draws=400)
    # nominal 95 %; two hundred trials have a standard error of 1.5 %, 400 draws cost half a point
    assert 0.90 <= one <= 0.99
    assert 0.90 <= difference <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problems", "seeds", "difficulty", "seed_effect"), [(200, 1, 1.5, 0.0), (500, 1, 3.0, 0.0), (200, 5, 1.5, 0.3)]
)
def test_coverage_is_nominal(problems, seeds, difficulty, seed_effect):
    one, difference = coverage(1_000, problems, seeds, difficulty, seed_effect, draws=1_000)
    assert 0.93 <= one <= 0.97
    assert 0.93 <= difference <= 0.97


@pytest.mark.slow
def test_coverage_is_conservative_without_seed_effects():
    one, difference = coverage(500, 200, 3, 1.5, 0.0, draws=1_000)
    assert one >= 0.95 and difference >= 0.95
