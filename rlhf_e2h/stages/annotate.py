"""Label the steps of graded samples without people, by rolling out from their prefixes.

Reads a policy that completes, graded samples and easy labels; writes stepwise.jsonl, the `records` of a `reward` stage.
How a step's label follows from its rollouts is in `reward_models.labels`. A killed stage resumes with the solution at
which it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from reward_models.labels import Outcome, label_steps
from reward_models.records import Stepwise, write_jsonl
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.encoding import check_context, encode_prompts
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.records import read_graded
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling
from rlhf_e2h.rl.engines import Engine, open_engine
from rlhf_e2h.runner.config import ConfigError, Input, setting
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.text_formats import FormatSettings, format_of
from rlhf_e2h.training.models import Policy, open_policy
from rlhf_e2h.training.precision import sampling_dtype

VERSION = 2
TRAITS = Traits(
    order=70,
    about="label the steps of graded samples by rollouts, without people",
)
OUTPUT = "stepwise.jsonl"


@dataclass
class Config:
    """Settings of the `annotate` stage."""

    policy: Input  # completes prefixes; Math-Shepherd uses the policy that wrote the solutions
    data: Input  # output of a prepare stage
    graded: Input  # output of a grade stage: the solutions to label
    # whose answers the rollouts are checked against; full only in a stage with 'full' in its name
    labels: Literal["easy", "full"] = setting("easy", added=True)
    # hard: a step is right if any rollout from it ends right; soft: if `threshold` of them do; search: binary search
    # for the first step from which none does (OmegaPRM), which costs the logarithm of the steps
    mode: Literal["hard", "soft", "search"] = "hard"
    samples: int = 8  # rollouts from each prefix
    threshold: float = 0.5  # soft only
    per_problem: int = 4  # different solutions of a problem that are labelled
    temperature: float = 1.0
    max_new_tokens: int = 256
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings, metadata={"added": True})
    engine: EngineSettings = field(default_factory=EngineSettings)
    batch: int = setting(64)  # solutions worked on together


def main(config: Config, run: StageRun) -> None:
    data = run.path(config.data)
    problems = {problem["problem_id"]: problem["problem"] for problem in read_problems(data, "train")}
    labels = run.labels(data, config.labels, splits=("train",))
    gold = {problems[key]: label.answer for key, label in labels.items()}
    rows = read_graded(run.path(config.graded), "finished")
    graded = [row for row in rows if row["problem_id"] in labels]
    solutions = choose(graded, problems, config.per_problem, format_of(run.path(config.graded)))
    if not solutions:
        raise ConfigError(f"{run.name}: none of the {len(rows)} graded samples is a finished one of an easy problem")
    path = run.path(config.policy)
    policy = open_policy(path, sampling_dtype(path), text_format=config.format)
    run.use_format(policy.text_format, policy.why)
    engine = open_engine(config.engine, policy.model, policy.tokenizer)
    sampling = Sampling(
        config.samples, config.temperature, 0, policy.limit(config.max_new_tokens), stop=policy.text_format.stop
    )
    begun = [policy.prompt(one.problem) + policy.text_format.separator.join(one.steps) for one in solutions]
    limit, names = policy.limit(config.max_new_tokens), [one.extra["problem_id"] for one in solutions]
    check_context(run.name, policy.model, encode_prompts(policy.tokenizer, begun), limit, names)
    with CheckerPool() as pool, run.progress(len(solutions), "labelling", "solutions") as bar:
        stream = label_steps(
            solutions,
            Completer(policy, engine, sampling, gold, pool, run.seed),
            mode=config.mode,
            samples=config.samples,
            threshold=config.threshold,
            journal=run.scratch / "labels.journal",
            batch=config.batch,
        )
        labelled = []
        for record in stream:
            labelled.append(record)
            bar.advance(1)
    engine.close()
    write_jsonl(run.out / OUTPUT, [record.to_row() for record in labelled])
    _report(run, policy, labelled)


def _report(run: StageRun, policy: Policy, labelled: Sequence[Stepwise]) -> None:
    tokens = sum(record.extra["mc_tokens"] for record in labelled)
    counts = Counter(label for record in labelled for label in record.labels or [])
    run.spend(tokens, 2.0 * tokens * sum(parameter.numel() for parameter in policy.model.parameters()))
    run.log({"labels/right": counts[1], "labels/wrong": counts[0], "labels/none": counts[None]})
    run.finish(solutions=len(labelled), generated_tokens=tokens, right=counts[1], wrong=counts[0])


def choose(
    rows: Sequence[Mapping[str, Any]],
    problems: Mapping[str, str],
    per_problem: int,
    text_format: TextFormat = SECTIONS,
) -> list[Stepwise]:
    """The first `per_problem` different finished solutions of each problem, right and wrong ones in turn."""
    groups: dict[str, dict[bool, dict[str, Mapping[str, Any]]]] = {}
    for row in rows:
        if row["finished"]:
            groups.setdefault(row["problem_id"], {True: {}, False: {}})[row["correct"]].setdefault(row["text"], row)
    chosen: list[Stepwise] = []
    for key, sides in groups.items():
        right, wrong = list(sides[True]), list(sides[False])
        longest = max(len(right), len(wrong))
        in_turn = [text for place in range(longest) for side in (right, wrong) for text in side[place : place + 1]]
        for text in in_turn[:per_problem]:
            outcome = int(text in sides[True])
            chosen.append(Stepwise(problems[key], text_format.split_steps(text), None, outcome, {"problem_id": key}))
    return chosen


class Completer:
    """The rollouts that `label_steps` asks for: an engine completes prefixes, the answer checker grades the whole."""

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        sampling: Sampling,
        gold: Mapping[str, str],
        pool: CheckerPool,
        seed: int,
    ) -> None:
        self.policy, self.format, self.engine, self.sampling = policy, policy.text_format, engine, sampling
        self.gold, self.pool, self.seed = gold, pool, seed

    def __call__(self, prefixes: Sequence[tuple[str, list[str]]], samples: int) -> list[list[Outcome]]:
        begun = ["".join(step + self.format.separator for step in steps) for _, steps in prefixes]
        prompts = [
            self.policy.prompt(problem) + self.format.training_text(text)
            for (problem, _), text in zip(prefixes, begun, strict=True)
        ]
        # the seed follows from what is asked, so that a resumed run draws what the uninterrupted one would have drawn
        digest = hashlib.sha256(json.dumps([self.seed, prompts]).encode()).digest()
        asked = replace(self.sampling, n=samples, seed=int.from_bytes(digest[:4], "big"))
        rollouts = self.engine.sample(prompts, asked)
        pairs = []
        for row, (text, done) in enumerate(zip(rollouts.texts, rollouts.finished, strict=True)):
            whole = self.format.training_text(begun[row // samples]) + text
            pairs.append((self.gold[prefixes[row // samples][0]], self.format.answer(whole) if done else None))
        verdicts = self.pool.check(pairs)
        outcomes = [
            Outcome(verdict.equal, len(ids)) for verdict, ids in zip(verdicts, rollouts.completion_ids, strict=True)
        ]
        return [outcomes[start : start + samples] for start in range(0, len(outcomes), samples)]
