"""What is compared with what: paired differences and gap ratios, named by a recipe or found by default rules.

A side is a mapping with `policy` and, where it is not the default, `decoding` (greedy), `reward_model` (none) and
`samples` (the most that were drawn). A side that was not evaluated gives null with a reason, never a missing line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_e2h.report.outcomes import SLICES, Condition, Outcomes
from rlhf_e2h.stats.gaps import ratio_from_draws
from rlhf_e2h.stats.intervals import bootstrap_means, interval_from_draws

SIDE_KEYS = ("policy", "decoding", "reward_model", "samples")
REFERENCE = "sft_easy"  # the policy that optimised ones start from
CEILING = "sft_full"
RERANKING = ("weighted_vote", "best_of_n")
UNTRAINED = ("base", "icl", "sft")  # first word of policies that no reward model has optimised
DIGITS = 6


@dataclass
class Comparison:
    """Treatment minus baseline on the same problems and seeds."""

    treatment: dict[str, Any]  # policy, decoding, reward_model, samples
    baseline: dict[str, Any]
    level: str = "hard"  # 1 to 5, easy, hard or all
    name: str = ""  # made from both sides if empty
    kind: str = "custom"  # decoding, policy or custom: where the report shows it

    def __post_init__(self) -> None:
        _check(self.level, self.treatment, self.baseline)


@dataclass
class Gap:
    """PGR = (student - weak) / (ceiling - weak); a side that is None is a twin that the run does not have."""

    student: dict[str, Any]
    weak: dict[str, Any]
    ceiling: dict[str, Any] = field(default_factory=dict)  # empty: there is none
    level: str = "hard"
    name: str = ""

    def __post_init__(self) -> None:
        _check(self.level, self.student, self.weak, *([self.ceiling] if self.ceiling else []))


def _check(level: str, *sides: Mapping[str, Any]) -> None:
    if level not in SLICES:
        raise ValueError(f"level {level!r} is not a slice; allowed: {', '.join(SLICES)}")
    for side in sides:
        unknown = sorted(set(side) - set(SIDE_KEYS))
        if unknown or "policy" not in side:
            problem = f"unknown key {unknown[0]!r}" if unknown else "no policy"
            raise ValueError(f"{problem} in {dict(side)}; a side has the keys {', '.join(SIDE_KEYS)}")


def side(condition: Condition) -> dict[str, Any]:
    """The side that names exactly this condition."""
    return {key: getattr(condition, key) for key in SIDE_KEYS}


def find(outcomes: Outcomes, wanted: Mapping[str, Any]) -> Condition | None:
    """The evaluated condition that a side names, or None."""
    found = [
        condition
        for condition in outcomes.conditions
        if condition.policy == wanted.get("policy")
        and condition.decoding == wanted.get("decoding", "greedy")
        and condition.reward_model == wanted.get("reward_model")
        and wanted.get("samples") in (None, condition.samples)
    ]
    return max(found, key=lambda condition: condition.samples) if found else None


def is_optimised(policy: str) -> bool:
    """Whether a policy was trained further than SFT, told from the first word of its name."""
    return policy.split("_")[0] not in UNTRAINED


def default_comparisons(outcomes: Outcomes) -> list[Comparison]:
    """Every policy with the reference, greedy; every reranking with majority at the same n. All on hard problems."""
    made = []
    reference = find(outcomes, {"policy": REFERENCE})
    for condition in outcomes.conditions:
        if condition.decoding in RERANKING and condition.samples > 1:
            majority = condition._asdict() | {"decoding": "majority", "reward_model": None}
            baseline = {key: majority[key] for key in SIDE_KEYS}
            if find(outcomes, baseline):
                made.append(Comparison(side(condition), baseline, kind="decoding"))
        elif condition.decoding == "greedy" and reference and condition != reference:
            made.append(Comparison(side(condition), side(reference), kind="policy"))
    return made


def default_gaps(outcomes: Outcomes) -> list[Gap]:
    """Each easy-trained method against its full-data twin.

    Policies: from the reference's greedy accuracy to that of the full SFT, and to that of every policy of the same kind
    (first word of the name) with full labels, such as PPO with the checker on all levels. Reranking with the most
    samples: from majority to the same decoding by the reward model of the same kind that was trained on full data.
    """
    made = []
    most = max((c.samples for c in outcomes.conditions), default=1)
    for condition in outcomes.conditions:
        if condition.labels != "easy":
            continue
        if condition.decoding == "greedy" and condition.policy != REFERENCE and is_optimised(condition.policy):
            twins = [CEILING, *(other.policy for other in outcomes.conditions if _is_full_twin(other, condition))]
            made += [Gap(side(condition), {"policy": REFERENCE}, {"policy": twin}) for twin in twins]
        elif condition.decoding in RERANKING and condition.samples == most > 1:
            weak = side(condition) | {"decoding": "majority", "reward_model": None}
            twin = _full_twin(outcomes, condition)
            made.append(Gap(side(condition), weak, side(twin) if twin else {}))
    return made


def _is_full_twin(other: Condition, condition: Condition) -> bool:
    same_kind = other.policy.split("_")[0] == condition.policy.split("_")[0]
    return same_kind and other.decoding == "greedy" and other.labels == "full"


def _full_twin(outcomes: Outcomes, condition: Condition) -> Condition | None:
    """The same decoding of the same bank by the reward model of the same kind (first word) with full labels."""
    kind = (condition.reward_model or "").split("_")[0]
    for other in outcomes.conditions:
        same = (other.policy, other.decoding, other.samples) == (
            condition.policy,
            condition.decoding,
            condition.samples,
        )
        if same and other.labels == "full" and (other.reward_model or "").split("_")[0] == kind:
            return other
    return None


def compare(outcomes: Outcomes, comparisons: Sequence[Comparison], draws: int) -> list[dict[str, Any]]:
    """Paired differences as plain rows: names, sides, estimate, low, high, n, seeds; or nulls and a reason."""
    resampler = _Resampler(outcomes, draws)
    rows = []
    for item in comparisons:
        treatment, baseline = find(outcomes, item.treatment), find(outcomes, item.baseline)
        row = {
            "name": item.name or f"{_text(treatment, item.treatment)} - {_text(baseline, item.baseline)}",
            "kind": item.kind,
            "level": item.level,
            "treatment": side(treatment) | {"labels": treatment.labels} if treatment else item.treatment,
            "baseline": side(baseline) | {"labels": baseline.labels} if baseline else item.baseline,
        }
        joint = resampler.draw([treatment, baseline], item.level)
        if isinstance(joint, str):
            rows.append(row | dict.fromkeys(("estimate", "low", "high")) | {"n": 0, "seeds": [], "reason": joint})
            continue
        means_DC, means_C, n, seeds = joint
        interval = interval_from_draws(means_DC[:, 0] - means_DC[:, 1], means_C[0] - means_C[1], n)
        bounds = {key: round(getattr(interval, key), DIGITS) + 0.0 for key in ("estimate", "low", "high")}
        rows.append(row | bounds | {"n": n, "seeds": seeds, "reason": None})
    return rows


def gap_ratios(outcomes: Outcomes, gaps: Sequence[Gap], draws: int) -> list[dict[str, Any]]:
    """PGR as plain rows: names, sides, estimate, low, high, the denominator, n, seeds; or nulls and a reason."""
    resampler = _Resampler(outcomes, draws)
    rows = []
    for item in gaps:
        found = [find(outcomes, one) if one else None for one in (item.weak, item.student, item.ceiling)]
        weak, student, ceiling = found
        row: dict[str, Any] = {"name": item.name or _text(student, item.student), "level": item.level}
        for key, condition in (("student", student), ("weak", weak), ("ceiling", ceiling)):
            row[key] = side(condition) | {"labels": condition.labels} if condition else getattr(item, key) or None
        empty = dict.fromkeys(("estimate", "low", "high", "denominator"))
        joint = resampler.draw(found, item.level) if item.ceiling else "this run has no full-data twin of it"
        if isinstance(joint, str):
            rows.append(row | empty | {"n": 0, "seeds": [], "reason": joint})
            continue
        means_DC, means_C, n, seeds = joint
        ratio = ratio_from_draws(means_DC, means_C, n)
        bounds = {key: _rounded(getattr(ratio, key)) for key in ("estimate", "low", "high")}
        gap = ratio.denominator
        assert gap is not None, "matrices always have a denominator"
        denominator = {key: _rounded(getattr(gap, key)) for key in ("estimate", "low", "high")}
        rows.append(row | bounds | {"denominator": denominator, "n": n, "seeds": seeds, "reason": ratio.reason})
    return rows


class _Resampler:
    """Joint bootstrap means of a few conditions, resampled once for each set of problems and seeds."""

    def __init__(self, outcomes: Outcomes, draws: int) -> None:
        self.outcomes, self.draws = outcomes, draws
        self._cache: dict[tuple[Any, ...], tuple[dict[Condition, int], Any, Any]] = {}

    def draw(self, conditions: Sequence[Condition | None], level: str) -> tuple[Any, Any, int, list[int]] | str:
        """(means_DC, means_C, n, seeds), or the reason why there is nothing to resample."""
        present = [condition for condition in conditions if condition is not None]
        if len(present) < len(conditions):
            return "one side was not evaluated in this run"
        seeds = self.outcomes.common_seeds(present)
        problems = self.outcomes.problems(present, level, seeds) if seeds else []
        if not problems:
            return f"the sides share no {level} problem and seed"
        columns, means_DC, means_C = self._resampled(tuple(problems), tuple(seeds))
        chosen = [columns[condition] for condition in present]
        return means_DC[:, chosen], means_C[chosen], len(problems), seeds

    def _resampled(self, problems: tuple[str, ...], seeds: tuple[int, ...]) -> tuple[dict[Condition, int], Any, Any]:
        key = (problems, seeds)
        if key not in self._cache:
            # all conditions that answered these problems: one pass serves every comparison on them
            able = [c for c, by_seed in self.outcomes.correct.items() if self._answers(by_seed, problems, seeds)]
            values_CPS = self.outcomes.stack(able, problems, seeds)
            columns = {condition: column for column, condition in enumerate(able)}
            self._cache[key] = (
                columns,
                bootstrap_means(values_CPS, self.draws),
                np.asarray(values_CPS.mean(axis=(1, 2))),
            )
        return self._cache[key]

    @staticmethod
    def _answers(by_seed: Mapping[int, Mapping[str, float]], problems: Sequence[str], seeds: Sequence[int]) -> bool:
        return all(seed in by_seed and by_seed[seed].keys() >= set(problems) for seed in seeds)


def _text(condition: Condition | None, wanted: Mapping[str, Any]) -> str:
    return condition.text() if condition else ", ".join(str(value) for value in wanted.values())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
