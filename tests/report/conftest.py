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


def made_up_manifest(seeds=(0, 1, 2)):
    """Completion records as `StageRun.manifest` gives them."""
    easy = {"file": "labels_easy.jsonl", "sha256": "0" * 64, "purpose": "training"}
    sealed = {"file": "labels_sealed.jsonl", "sha256": "1" * 64, "purpose": "training"}
    exam = {"file": "labels_sealed.jsonl", "sha256": "1" * 64, "purpose": "evaluation"}
    easy_file, both = ["labels_easy.jsonl"], ["labels_easy.jsonl", "labels_sealed.jsonl"]
    stages = [  # name, kind, seconds, tokens, read, inherited
        ("prepare", "prepare", 1.2, None, [], []),
        ("sft_easy", "sft", 21.4, 812_000, [easy], []),
        ("sft_full", "sft", 24.9, 1_403_000, [easy, sealed], []),
        ("sample_easy", "sample", 34.0, 3_920_114, [], easy_file),
        ("grade_easy", "grade", 6.1, None, [easy], easy_file),
        ("prm", "reward", 71.3, 4_200_110, [], easy_file),
        ("prm_full", "reward", 75.7, 5_120_220, [], both),
        ("bank", "sample", 30.2, 2_811_000, [], easy_file),
        ("rerank", "rerank", 19.5, 11_244_000, [], both),
        ("ppo_prm", "ppo", 122.8, 9_310_400, [easy], easy_file),
        ("evaluate", "evaluate", 12.6, 402_117, [exam], both),
    ]
    return [
        {
            "stage": kind, "name": name, "seed": seed, "seconds": seconds, "labels_read": read,
            "labels_inherited": inherited, "results": {"tokens": tokens} if tokens else {}, "files": {},
        }
        for name, kind, seconds, tokens, read, inherited in stages
        for seed in ((0,) if kind == "prepare" else seeds)
    ]  # fmt: skip


def made_up_solutions():
    """Scored and graded samples: arithmetic, and LaTeX that must not break the page."""
    rng = np.random.default_rng(4)
    rows = []
    for index in range(40):
        level = index % 5 + 1
        correct = bool(rng.random() < 0.6)
        scores = [float(x) for x in np.clip(rng.normal(0.85 if correct else 0.6, 0.25, level + 1), 0.01, 0.99)]
        steps = [f"4+5*5+5*{step}:4+5={step % 7}" for step in range(level)] + [f"# Answer\n\n{index % 7}"]
        rows.append(
            {
                "problem_id": f"p{index}", "level": level, "problem": f"(4+5)*5+{index}", "steps": steps,
                "policy": "ppo_prm",
                "step_scores": scores, "score": min(scores), "reward_model": "prm", "correct": correct, "gold": "3",
            }
        )  # fmt: skip
    latex = r"If $\frac{a}{b} < 1$ & $x^2-<b>4</b>=0$, find $\sqrt{\dfrac{\pi^{2}}{6}}$ " + "x" * 120
    rows[4] |= {
        "problem": latex,
        "steps": [latex, r"So $\boxed{<script>alert(1)</script>}$"],
        "step_scores": [0.9, 0.1],
    }
    return rows


ABOUT = {
    "recipe": "quickstart",
    "description": "Easy-to-hard on a small arithmetic world, on a CPU, in minutes",
    "date": "2026-02-03 04:05 UTC",
    "machine": "2 x86_64 CPU cores, 8 GiB memory, no GPU",
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "uncommitted_changes": True},
    "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.19.0", "trl": "1.16.0"},
    "overrides": ["seeds=[0,1,2]"],
}
QUALITY = {
    "orm": [{"outcome_auc_easy": 0.91, "outcome_auc_hard": 0.74, "calibration_error_hard": 0.09, "records": 4210}],
    "prm": [
        {
            "step_auc_1": 0.99,
            "step_auc_5": 0.8,
            "outcome_auc_4": 0.9,
            "outcome_auc_5": 0.7,
            "step_auc_easy": 0.97,
            "step_auc_hard": 0.88,
            "outcome_auc_hard": 0.83,
            "first_error_f1_hard": 0.71,
        },
        {"step_auc_easy": 0.95, "step_auc_hard": 0.86, "outcome_auc_hard": 0.81, "first_error_f1_hard": 0.69},
        {"records": 12044},
    ],
}


def made_up_hacking():
    rows = []
    for policy, score, accuracy in [
        ("base", 0.41, 0.36),
        ("sft_easy", 0.52, 0.48),
        ("ppo_prm", 0.81, 0.62),
        ("rest_prm", 0.6, 0.59),
    ]:
        for level, drop in (("3", 0.0), ("5", 0.1)):
            gap = {"score": score - drop, "accuracy": accuracy - drop, "n": 20}
            rows.append({"policy": policy, "level": level, "step": None, "judge": "prm_easy", **gap})
    for step in range(0, 60, 10):
        rows.append(
            {
                "policy": "ppo_prm",
                "level": "easy",
                "step": step,
                "judge": None,
                "score": 0.52 + step / 200,
                "accuracy": 0.48 + step / 400,
            }
        )
    return rows


def made_up_training():
    """Curves of three seeds of PPO and of the losses of other stages."""
    stages = [
        ("ppo_prm", "ppo", "objective/scores"), ("ppo_prm", "ppo", "objective/kl"),
        ("sft_easy", "sft", "train/loss"), ("orm_easy", "reward", "train/loss"), ("prm_easy", "reward", "train/loss"),
    ]  # fmt: skip
    return [
        {"stage": stage, "kind": kind, "seed": seed, "step": step, "metric": metric, "value": 1 / (step + seed + 1)}
        for stage, kind, metric in stages
        for seed in range(3)
        for step in range(5)
    ]


def made_up_rollouts():
    solutions = made_up_solutions()
    return [
        {**solutions[step + level], "step": step, "seed": 0, "level": level, "correct": None if level > 3 else True}
        for step in (0, 4, 8, 12)
        for level in (2, 3, 5)
    ]


@pytest.fixture(scope="session")
def page_input(outcomes):
    from rlhf_e2h.report.page import PageInput
    from rlhf_e2h.report.results import build_results

    return PageInput(
        build_results(outcomes, draws=200),
        ABOUT,
        made_up_manifest(),
        QUALITY,
        made_up_solutions(),
        made_up_hacking(),
        made_up_training(),
        made_up_rollouts(),
        calibration=[
            {
                "reward_model": name,
                "low": low / 10,
                "score": low / 10 + 0.05,
                "observed": observed,
                "observed_low": observed - 0.08,
                "observed_high": observed + 0.08,
                "n": 40 * low + 1,
            }
            for name, shift in (("orm", 0.1), ("prm", 0.0))
            for low, observed in ((1, 0.3 - shift), (6, 0.5), (9, 0.9 - shift))
        ],
    )
