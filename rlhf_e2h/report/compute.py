"""Accuracy over compute: what each method costs, and what sampling would have reached at the same cost.

Two kinds of cost, kept apart. *Once*: everything that was run to make a policy or reward model beyond the reference
policy (its samples, reward models, training), in full for each method also where methods share a stage. *Each*: what
one test problem takes: a greedy solution, or n samples and their scores. Their sum over the test set is the compute of
the figure. Grading by the checker, evaluation during training and the labelling of data are not counted.

Tokens are those that models read or write; operations follow `e2h plan` (2 a weight and token forwards, 6 in training,
attention on top). A problem is read once for its n samples, and its tokens are spread over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from rlhf_e2h.records import Row
from rlhf_e2h.report.comparisons import REFERENCE, RERANKING, Comparison, is_optimised, side
from rlhf_e2h.report.outcomes import Condition
from rlhf_e2h.report.results import main_seed

Record = Mapping[str, Any]
LABELS = ("none", "easy", "full")  # from narrow to wide
SAMPLED = ("mean", "majority", *RERANKING)
COLUMNS = (
    "policy", "decoding", "reward_model", "labels", "samples", "level", "n", "accuracy", "ci_low", "ci_high", "seed",
    "once_tokens", "once_flops", "tokens_each", "flops_each", "problems", "total_tokens", "total_flops",
)  # fmt: skip


class Amount(NamedTuple):
    """Tokens and floating-point operations."""

    tokens: float = 0.0
    flops: float = 0.0

    def plus(self, other: Amount, times: float = 1.0) -> Amount:
        return Amount(self.tokens + times * other.tokens, self.flops + times * other.flops)


@dataclass(frozen=True)
class Price:
    """What a condition costs once, and for each problem."""

    once: Amount
    each: Amount

    def total(self, problems: float) -> Amount:
        return self.once.plus(self.each, problems)


class _Graph:
    """Finished stages by folder, and what each was made from."""

    def __init__(self, manifest: Iterable[Record]) -> None:
        self.records = {record["folder"]: record for record in manifest if "folder" in record}

    def closure(self, folder: str | None) -> frozenset[str]:
        """The stage and everything upstream of it."""
        found: set[str] = set()
        waiting = [folder] if folder in self.records else []
        while waiting:
            one = waiting.pop()
            found.add(str(one))
            waiting += [up for up in self.records[one].get("upstream", ()) if up in self.records and up not in found]
        return frozenset(found)

    def cost(self, folders: Iterable[str]) -> Amount:
        total = Amount()
        for folder in folders:
            record = self.records[folder]
            total = total.plus(Amount(record.get("tokens") or 0.0, record.get("flops") or 0.0))
        return total

    def read_by(self, record: Record, reference: str | None) -> str | None:
        """The folder behind an input of a stage; None for a path, which costs nothing here."""
        name = (reference or "")[1:].split("/")[0] if (reference or "").startswith("@") else None
        return next((folder for folder in record.get("upstream", ()) if folder.split("/")[0] == name), None)


def prices(
    manifest: Sequence[Record], settings: Mapping[str, Mapping[str, Any]], conditions: Sequence[Condition]
) -> dict[Condition, Price]:
    """The price of every condition whose stages counted what they spent, the mean over seeds.

    Args:
        settings: of each `evaluate` stage, by its folder.
    """
    graph = _Graph(manifest)
    evaluations = [(record, settings[folder]) for folder, record in graph.records.items() if folder in settings]
    start = {
        record["seed"]: graph.closure(graph.read_by(record, told["policies"][REFERENCE]))
        for record, told in evaluations
        if REFERENCE in told["policies"]
    }
    found: dict[Condition, list[Price]] = {}
    for record, told in evaluations:
        given = start.get(record["seed"], frozenset())
        for condition in conditions:
            price = _price(graph, record, told, given, condition)
            if price:
                found.setdefault(condition, []).append(price)
    return {condition: _mean(several) for condition, several in found.items()}


def _price(
    graph: _Graph, record: Record, told: Mapping[str, Any], given: frozenset[str], condition: Condition
) -> Price | None:
    results = record.get("results", {})
    if condition.decoding == "greedy":
        spent = results.get("greedy_cost", {}).get(condition.policy)
        if spent is None or not results.get("problems"):
            return None
        made = graph.closure(graph.read_by(record, told["policies"].get(condition.policy)))
        return Price(graph.cost(made - given), Amount().plus(Amount(*spent), 1 / results["problems"]))
    own = condition.policy == told.get("bank_policy")
    bank = graph.read_by(record, told.get("samples") if own else told.get("banks", {}).get(condition.policy))
    if condition.decoding not in SAMPLED or bank is None:
        return None
    made, sampled = graph.closure(bank) - {bank}, graph.records[bank]
    solutions = sampled.get("results", {}).get("solutions")
    if not solutions or not sampled.get("flops"):
        return None
    each = Amount().plus(graph.cost([bank]), condition.samples / solutions)
    if condition.reward_model:
        rerank = graph.read_by(record, told.get("rerank"))
        scored = graph.records[rerank]["results"].get("cost", {}).get(condition.reward_model) if rerank else None
        reference = told.get("reward_models", {}).get(condition.reward_model)
        if scored is None or reference is None:
            return None
        made |= graph.closure(graph.read_by(record, reference))
        each = each.plus(Amount(*scored), condition.samples / solutions)
    return Price(graph.cost(made - given), each)


def _mean(several: Sequence[Price]) -> Price:
    def mean(amounts: Iterable[Amount]) -> Amount:
        return Amount(*(fmean(values) for values in zip(*amounts, strict=True)))

    return Price(mean(one.once for one in several), mean(one.each for one in several))


def compute_rows(results: Mapping[str, Any], priced: Mapping[Condition, Price]) -> list[Row]:
    """Accuracy with its interval beside what it cost, of the hard and of all problems; see COLUMNS."""
    seed = main_seed(results)
    chosen = [row for row in results["rows"] if row["seed"] == seed]
    problems = max((row["n"] for row in chosen if row["level"] == "all"), default=0)
    rows = []
    for row in chosen:
        condition = Condition(*(row[key] for key in Condition._fields))
        if row["level"] not in ("hard", "all") or condition not in priced:
            continue
        price = priced[condition]
        once, each, total = price.once, price.each, price.total(problems)
        rows.append(
            row
            | {"once_tokens": once.tokens, "once_flops": once.flops, "tokens_each": each.tokens}
            | {"flops_each": each.flops, "problems": problems}
            | {"total_tokens": total.tokens, "total_flops": total.flops}
        )
    return rows


@dataclass(frozen=True)
class Match:
    """An optimised policy, and a decoding of the reference's samples that costs no more."""

    comparison: Comparison
    samples: int
    policy_flops: float
    sampled_flops: float
    break_even: float | None  # test problems from which on the policy is the cheaper one, against all samples


def matches(priced: Mapping[Condition, Price], problems: int) -> list[Match]:
    """For every optimised policy and every decoding of the reference's bank: the most samples for the same operations.

    Where one sample costs more already (its reward model's training, say), or its reward model has read labels that the
    policy has not, the decoding is left out. `break_even`
    compares with the most samples of the bank: above that many problems the policy's training has paid for itself.
    """
    policies = [c for c in priced if c.decoding == "greedy" and is_optimised(c.policy) and c.policy != REFERENCE]
    curves: dict[tuple[str, str | None], list[Condition]] = {}
    for condition in priced:
        if condition.policy == REFERENCE and condition.decoding in ("majority", *RERANKING):
            curves.setdefault((condition.decoding, condition.reward_model), []).append(condition)
    found = []
    for policy in policies:
        budget = priced[policy].total(problems).flops
        for curve in curves.values():
            curve.sort(key=lambda condition: condition.samples)
            able = [one for one in curve if priced[one].total(problems).flops <= budget]
            if not able or LABELS.index(curve[-1].labels) > LABELS.index(policy.labels):
                continue
            same, most = able[-1], priced[curve[-1]]
            comparison = Comparison(side(policy), side(same), kind="compute")
            even = _break_even(priced[policy], most)
            found.append(Match(comparison, same.samples, budget, priced[same].total(problems).flops, even))
    return found


def _break_even(policy: Price, sampled: Price) -> float | None:
    saved = sampled.each.flops - policy.each.flops
    return max(0.0, (policy.once.flops - sampled.once.flops) / saved) if saved > 0 else None
