"""Sample solutions from a policy. Reads a policy and the problems of a `prepare` stage; writes samples.jsonl.

A killed stage goes on with the chunk of problems at which it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.bank import Decoding, Row, sample
from rlhf_e2h.config import ConfigError, Input, setting
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.models import open_policy, sampling_dtype
from rlhf_e2h.processes import join
from rlhf_e2h.runs import StageRun
from rlhf_e2h.shares import Spend, divided
from rlhf_e2h.traits import Traits

VERSION = 1
TRAITS = Traits(
    order=50,
    about="sample solutions from a policy",
    distributed=True,
)
OUTPUT = "samples.jsonl"


@dataclass
class Config:
    """Settings of the `sample` stage."""

    policy: Input  # model, or the output of an icl stage
    data: Input  # output of a prepare stage
    split: Literal["train", "validation", "test"] = "train"
    levels: list[int] | None = None  # only problems of these levels; all, those without a level too, if not given
    limit: int | None = None  # at most so many problems
    decoding: Decoding = field(default_factory=Decoding)
    chunk: int = setting(256)  # problems between two savings


def main(config: Config, run: StageRun) -> None:
    place = join()
    policy = open_policy(run.path(config.policy), sampling_dtype(), place.device)
    problems = choose(read_problems(run.path(config.data), config.split), config.levels, config.limit)
    if not problems:
        raise ConfigError(
            f"{run.name}: no {config.split} problems of levels {config.levels}; check `levels` and prepare"
        )
    total = len(problems) * config.decoding.n // place.num_processes
    with run.progress(total, "sampling", "solutions") as bar:

        def chunks() -> Iterator[dict[str, Any]]:
            for index, start in enumerate(range(0, len(problems), config.chunk)):
                part = run.scratch / f"part-{index:05d}.jsonl"
                if part.is_file():
                    rows = read_jsonl(part)
                    bar.advance(len(rows) // place.num_processes)
                else:
                    seed, chunk = run.seed * 100_003 + index, problems[start : start + config.chunk]

                    def work(own: Sequence[Row], first: int, spend: Spend, seed: int = seed) -> list[Row]:
                        first_row = first * config.decoding.n
                        return sample(policy, own, config.decoding, seed, bar.advance, spend, first_row)

                    rows = divided(chunk, place, work, run.spend)
                    if run.is_main:
                        write_jsonl(part, rows)
                yield from rows

        rows = list(chunks())
    if run.is_main:
        write_jsonl(run.out / OUTPUT, rows)
    finished = sum(row["finished"] for row in rows) / len(rows)
    run.finish(problems=len(problems), solutions=len(rows), finished=finished)


def choose(problems: list[dict[str, Any]], levels: list[int] | None, limit: int | None) -> list[dict[str, Any]]:
    """Problems of the wanted levels; a limit is filled level by level in turn, so that each keeps its share of it."""
    wanted = [p for p in problems if levels is None or p["level"] in levels]
    if limit is None or limit >= len(wanted):
        return wanted
    by_level: dict[Any, list[dict[str, Any]]] = {}
    for problem in wanted:
        by_level.setdefault(problem["level"], []).append(problem)
    queues = [list(reversed(group)) for group in by_level.values()]
    taken: list[dict[str, Any]] = []
    while len(taken) < limit:
        for queue in queues:
            if queue and len(taken) < limit:
                taken.append(queue.pop())
    order = {p["problem_id"]: i for i, p in enumerate(wanted)}
    return sorted(taken, key=lambda p: order[p["problem_id"]])
