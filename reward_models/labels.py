"""Step labels without people: roll out from each prefix of a solution and see how often the answer comes out right.

Math-Shepherd (arXiv 2312.08935): the value of a step is the share of rollouts from its prefix that end right (soft), or
whether any does (hard). OmegaPRM (arXiv 2406.06592): if values only fall, the first error is found by binary search.

The rollout engine is a callable, so any sampler serves; it sees many prefixes at once and can batch them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reward_models.records import BadRecord, Stepwise

MODES = ("hard", "soft", "search")


@dataclass(frozen=True)
class Outcome:
    """One rollout: whether its final answer is right, and how many tokens were generated for it."""

    correct: bool
    tokens: int = 0


# prefixes of (problem, steps so far) and the number of samples -> the rollouts of each prefix
Rollout = Callable[[Sequence[tuple[str, list[str]]], int], Sequence[Sequence[Outcome]]]
# yields numbers of leading steps to roll out from, is sent the shares that ended right, returns labels and values
_Plan = Generator[list[int], list[float], tuple[list[int | None], list[float | None]]]


def label_steps(
    records: Iterable[Stepwise],
    rollout: Rollout,
    *,
    mode: str = "hard",
    samples: int = 8,
    threshold: float = 0.5,
    journal: str | Path | None = None,
    batch: int = 64,
) -> Iterator[Stepwise]:
    """Records with `labels` from rollouts, in input order; `extra` gains `mc_values` and `mc_tokens`.

    Args:
        records: solutions with `outcome`; the last step's value is that outcome and costs no rollout.
        mode: "hard" (1 if any rollout ends right), "soft" (1 if their share reaches `threshold`; the share itself is in
            `mc_values`), or "search" (binary search for the first step from which none ends right: labels 1 before it,
            0 on it, null behind it; a right solution has no error).
        journal: file to which each finished record is appended; a second run takes finished ones from it. Its first
            line holds mode, samples and threshold, which must agree.
        batch: records worked on together, so that the engine gets many prefixes in one call.

    Raises:
        ValueError: unknown mode, a record without outcome, or a journal of another setting.
    """
    if mode not in MODES or samples < 1:
        raise ValueError(f"mode {mode!r} with {samples} samples; mode is one of {', '.join(MODES)}, samples at least 1")
    settings = {"mode": mode, "samples": samples, "threshold": threshold}
    done = _open_journal(Path(journal), settings) if journal else {}
    group: list[Stepwise] = []
    for record in records:
        if record.outcome is None:
            raise ValueError(f"a solution of {record.problem!r:.60} has no outcome; grade solutions before labelling")
        group.append(record)
        if len(group) == batch:
            yield from _label_group(group, rollout, settings, done, journal)
            group = []
    yield from _label_group(group, rollout, settings, done, journal)


def generated_tokens(records: Iterable[Stepwise]) -> int:
    """Tokens that the rollouts of labelled records cost."""
    return sum(record.extra.get("mc_tokens", 0) for record in records)


def _label_group(
    group: Sequence[Stepwise],
    rollout: Rollout,
    settings: dict[str, Any],
    done: dict[str, Any],
    journal: str | Path | None,
) -> list[Stepwise]:
    """All plans advance together: each round of rollouts is one call of the engine."""
    fresh = {key: record for record in group if (key := _key(record)) not in done}
    plans = {key: _plan(record, settings["mode"], settings["threshold"]) for key, record in fresh.items()}
    wanted = {key: next(plan) for key, plan in plans.items()}
    spent = dict.fromkeys(plans, 0)
    while wanted:
        places = [(key, count) for key, counts in wanted.items() for count in counts]
        prefixes = [(fresh[key].problem, fresh[key].steps[:count]) for key, count in places]
        results = rollout(prefixes, settings["samples"]) if prefixes else []
        if len(results) != len(places) or any(len(result) != settings["samples"] for result in results):
            raise ValueError(f"the rollout engine must return {settings['samples']} outcomes for each of {len(places)}")
        shares: dict[str, list[float]] = {key: [] for key in wanted}
        for (key, _), outcomes in zip(places, results, strict=True):
            shares[key].append(sum(outcome.correct for outcome in outcomes) / len(outcomes))
            spent[key] += sum(outcome.tokens for outcome in outcomes)
        for key in list(wanted):
            try:
                wanted[key] = plans[key].send(shares[key])
            except StopIteration as end:
                labels, values = end.value
                done[key] = {"key": key, "labels": labels, "mc_values": values, "mc_tokens": spent[key]}
                del wanted[key]
                if journal:
                    _append(Path(journal), done[key])
    return [_labelled(record, done[_key(record)]) for record in group]


def _plan(record: Stepwise, mode: str, threshold: float) -> _Plan:
    count, outcome = len(record.steps), float(record.outcome or 0)
    if mode == "search":
        return (yield from _search(count, outcome))
    shares = yield list(range(1, count))
    values = [*shares, outcome]
    labels: list[int | None] = [int(value > 0) if mode == "hard" else int(value >= threshold) for value in values]
    return labels, list(values)


def _search(count: int, outcome: float) -> _Plan:
    """`good` steps are known to lead somewhere, `bad` steps are known not to; both close in on the first error."""
    values: list[float | None] = [None] * (count - 1) + [outcome]
    if outcome:
        _ = yield []
        return [1] * count, values
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        (share,) = yield [middle]
        values[middle - 1] = share
        good, bad = (middle, bad) if share > 0 else (good, middle)
    if bad == count == 1:
        _ = yield []
    return [*[1] * good, 0, *[None] * (count - bad)], values


def _labelled(record: Stepwise, entry: dict[str, Any]) -> Stepwise:
    extra = {**record.extra, "mc_values": entry["mc_values"], "mc_tokens": entry["mc_tokens"]}
    return replace(record, labels=entry["labels"], extra=extra)


def _key(record: Stepwise) -> str:
    return hashlib.sha256(json.dumps([record.problem, record.steps, record.outcome]).encode()).hexdigest()


def _open_journal(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Finished entries by key. A last line cut short by a crash is removed and its record labelled again."""
    if not path.is_file() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, settings)
        return {}
    whole, _, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        path.write_bytes(whole + b"\n")
    try:
        first, *entries = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise BadRecord(f"{path}: not a journal of step labels ({error}); give another path") from None
    if first != settings:
        raise ValueError(f"{path} was written with {first}, now {settings}; give another path, or remove the file")
    return {entry["key"]: entry for entry in entries}


def _append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
