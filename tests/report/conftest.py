"""A made-up run with the shape of the quickstart: three seeds, policies, reward models, a firewall manifest."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_e2h.report.outcomes import Outcomes

POLICIES = {  # logit of greedy accuracy at the middle of difficulty, labels
    "base": (-0.6, "none"),
    "icl_easy": (-0.4, "easy"),
    "sft_easy": (0.2, "easy"),
    "sft_full": (2.2, "full"),
    "ppo_prm": (1.4, "easy"),
    "dpo_oprm": (0.8, "easy"),
    "rest_prm": (1.2, "easy"),
    "ppo_dagger": (1.9, "full"),
}
REWARD_MODELS = {
    "orm_easy": (0.5, "easy"),
    "prm_easy": (0.9, "easy"),
    "oprm_easy": (0.95, "easy"),
    "prm_full": (1.3, "full"),
}


def made_up_rows(seed, per_level=40, sizes=(1, 2, 4, 8, 16)):
    """Outcome rows of one seed; problems and their difficulty are the same for every seed."""
    world = np.random.default_rng(99)
    levels = np.repeat([1, 2, 3, 4, 5], per_level)
    ids = [f"test-{index:04d}" for index in range(len(levels))]
    difficulty = world.normal(0, 1.2, len(levels)) + np.array([-2.5, -1.5, -0.5, 0.8, 1.6])[levels - 1]
    rng = np.random.default_rng(seed)

    def rows(policy, decoding, reward_model, labels, samples, logit, draws=1):
        p = 1 / (1 + np.exp(-(logit - difficulty)))
        correct = rng.binomial(draws, p) / draws
        for problem, level, value in zip(ids, levels, correct, strict=True):
            yield {
                "policy": policy, "decoding": decoding, "reward_model": reward_model, "labels": labels,
                "samples": samples, "problem_id": problem, "level": int(level), "correct": float(value),
            }  # fmt: skip

    for policy, (logit, labels) in POLICIES.items():
        yield from rows(policy, "greedy", None, labels, 1, logit + rng.normal(0, 0.1))
    for policy in ("sft_easy", "ppo_prm"):
        start = POLICIES[policy][0] - 0.3
        for n in sizes:
            gain, draws = np.log2(n) / 4, 16 // n
            yield from rows(policy, "majority", None, "easy", n, start + 0.8 * gain, draws)
            yield from rows(policy, "pass_at_n", None, "easy", n, start + 4.0 * gain, draws)
            for name, (skill, labels) in REWARD_MODELS.items():
                yield from rows(policy, "weighted_vote", name, labels, n, start + (0.8 + skill) * gain, draws)
                yield from rows(policy, "best_of_n", name, labels, n, start + 1.4 * skill * gain, draws)


def made_up_outcomes(seeds=(0, 1, 2), **sizes):
    outcomes = Outcomes()
    for seed in seeds:
        for row in made_up_rows(seed, **sizes):
            outcomes.add(row, seed)
    return outcomes


@pytest.fixture(scope="session")
def outcomes():
    return made_up_outcomes(per_level=20, sizes=(1, 4, 16))
