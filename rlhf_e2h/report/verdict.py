"""What came out, in a few plain sentences made from the comparisons. It claims no more than the intervals do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_e2h.records import Row
from rlhf_e2h.report.comparisons import CEILING, REFERENCE, is_optimised
from rlhf_e2h.report.tables import index_rows


@dataclass(frozen=True)
class Verdict:
    """A headline, sentences below it, and what to keep in mind; `tone` is good, mixed or bad."""

    headline: str
    sentences: list[str]
    cautions: list[str]
    tone: str


def make_verdict(results: Mapping[str, Any], manifest_rows: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """Judge a run by its best optimised policy and its best reranking, both by easy-trained reward models only."""
    policies = [row for row in _easy(results["comparisons"], "policy") if is_optimised(row["treatment"]["policy"])]
    decodings = _easy(results["comparisons"], "decoding")
    most = max((row["treatment"]["samples"] for row in decodings), default=1)
    decodings = [row for row in decodings if row["treatment"]["samples"] == most]
    policy, decoding = _best(policies), _best(decodings)
    sentences = [
        sentence
        for sentence in (
            _policy_sentence(results, policy),
            _gap_sentence(results, policy),
            _decoding_sentence(results, decoding),
            _firewall_sentence(manifest_rows),
        )
        if sentence
    ]
    gains = [_direction(row) for row in (policy, decoding) if row]
    headline, tone = _headline(gains)
    if any(not row["ok"] for row in manifest_rows):
        tone = "bad"
    return Verdict(headline, sentences, _cautions(results, len(policies), len(decodings)), tone)


def _easy(comparisons: Sequence[Row], kind: str) -> list[Row]:
    return [
        row
        for row in comparisons
        if row["kind"] == kind and row["estimate"] is not None and row["treatment"].get("labels") == "easy"
    ]


def _best(rows: Sequence[Row]) -> Row | None:
    return max(rows, key=lambda row: row["estimate"]) if rows else None


def _direction(row: Row) -> int:
    """1 if the interval lies above 0, -1 if below, 0 if it contains 0."""
    return (row["low"] > 0) - (row["high"] < 0)


def _headline(gains: Sequence[int]) -> tuple[str, str]:
    if not gains:
        return "Nothing to compare: no policy or reranking used an easy-trained reward model.", "mixed"
    if all(gain > 0 for gain in gains):
        return "Reward models trained on easy problems helped on hard ones.", "good"
    if any(gain > 0 for gain in gains):
        return "Reward models trained on easy problems helped on hard ones in part.", "mixed"
    if any(gain < 0 for gain in gains):
        return "Reward models trained on easy problems did not help on hard ones, and in part harmed.", "bad"
    return "No clear gain on hard problems from reward models trained on easy ones.", "mixed"


def _policy_sentence(results: Mapping[str, Any], row: Row | None) -> str | None:
    if row is None:
        return None
    after, before = (_accuracy(results, row[key], row["level"]) for key in ("treatment", "baseline"))
    verb = {1: "is better than", 0: "does not clearly differ from", -1: "is worse than"}[_direction(row)]
    return (
        f"Optimisation: {row['treatment']['policy']}, the best policy trained against an easy-trained reward model, "
        f"{verb} {REFERENCE}, where it started: {percent(after)} against {percent(before)} of hard problems, greedily "
        f"({points(row)})."
    )


def _decoding_sentence(results: Mapping[str, Any], row: Row | None) -> str | None:
    if row is None:
        return None
    side = row["treatment"]
    after, before = (_accuracy(results, row[key], row["level"]) for key in ("treatment", "baseline"))
    verb = {1: "beats", 0: "does not clearly differ from", -1: "is worse than"}[_direction(row)]
    return (
        f"Reranking {side['samples']} samples of {side['policy']}: {side['decoding'].replace('_', ' ')} by "
        f"{side['reward_model']} {verb} majority on hard problems, {percent(after)} against {percent(before)} "
        f"({points(row)})."
    )


def _gap_sentence(results: Mapping[str, Any], policy: Row | None) -> str | None:
    if policy is None:
        return None
    for row in results["pgr"]:
        student, ceiling = row["student"] or {}, row["ceiling"] or {}
        if student.get("policy") != policy["treatment"]["policy"] or ceiling.get("policy") != CEILING:
            continue
        if row["estimate"] is None:
            return f"The share of the gap to {CEILING} that it recovers is undefined: {row['reason']}."
        bounds = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        return (
            f"That is {100 * row['estimate']:.0f} % of the gap between {REFERENCE} and {CEILING} ({bounds}), "
            f"and {CEILING} was trained on the hard labels."
        )
    return None


def _firewall_sentence(rows: Sequence[Mapping[str, Any]]) -> str | None:
    if not rows:
        return None
    broken = [row["name"] for row in rows if not row["ok"]]
    if broken:
        return f"The label firewall was broken by {', '.join(broken)}: hard labels may be behind these numbers."
    return "No stage read or inherited a hard label, except the evaluation and baselines that say so in their names."


def _cautions(results: Mapping[str, Any], policies: int, decodings: int) -> list[str]:
    cautions = []
    if max(policies, decodings) > 1:
        chosen = [f"{n} {what}" for n, what in ((policies, "policies"), (decodings, "rerankings")) if n > 1]
        cautions.append(
            f"This is the best of {' and of '.join(chosen)}, and the intervals are not adjusted for that choice."
        )
    if len(results["seeds"]) == 1:
        cautions.append("One seed: the intervals speak of other problems, not of other training runs.")
    return cautions


def _accuracy(results: Mapping[str, Any], side: Mapping[str, Any], level: str) -> float | None:
    key = (side["policy"], side["decoding"], side["reward_model"], side["samples"], level)
    row = index_rows(results).get(key)
    return row["accuracy"] if row else None


def percent(value: float | None) -> str:
    """`61.5 %`, or a dash where there is no value."""
    return "–" if value is None else f"{100 * value:.1f} %"


def points(row: Mapping[str, Any]) -> str:
    """A difference in percentage points with its interval: `+11.0 points, 95 % interval +8.2 to +13.9`."""
    low, high = (f"{100 * row[key]:+.1f}".replace("-", "−") for key in ("low", "high"))
    return f"{100 * row['estimate']:+.1f}".replace("-", "−") + f" points, 95 % interval {low} to {high}"
