"""A sample bank: several solutions for each problem, sampled once, then graded and scored by whoever needs it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reward_models.aggregate import aggregate
from reward_models.score import Scorer
from rlhf_e2h.data.apps import is_tests, program_of
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.encoding import check_context, encode_prompts
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.records import Row
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling
from rlhf_e2h.rl.engines import open_engine
from rlhf_e2h.rl.rollout import Rollouts, check_filters
from rlhf_e2h.runner.config import ConfigError, setting
from rlhf_e2h.samples.answer_pool import answer_pool
from rlhf_e2h.training import spent
from rlhf_e2h.training.models import Policy

FormatOf = TextFormat | Callable[[Row], TextFormat]


@dataclass
class Decoding:
    """How solutions are sampled."""

    n: int = 16  # solutions a problem
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0: all tokens
    max_new_tokens: int = 256
    batch_size: int = 256  # solutions decoded together
    engine: EngineSettings = field(default_factory=EngineSettings, metadata={"added": True})  # hf or vllm
    top_p: float = setting(1.0, added=True)  # the likeliest tokens with so much probability; 1: all tokens
    min_p: float = setting(0.0, added=True)  # tokens with at least so much of the likeliest one's; 0: all tokens
    stop: list[str] = field(default_factory=list, metadata={"added": True})  # texts of which any ends a solution

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError("n, batch_size and max_new_tokens must be at least 1")
        check_filters(self.top_p, self.min_p, self.stop)


GREEDY = {"n": 1, "temperature": 0.0}


def sample(
    policy: Policy,
    problems: Sequence[Row],
    decoding: Decoding,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
    spend: Callable[[float, float], None] | None = None,
) -> list[Row]:
    """Sample rows (problem_id, sample_id, text, answer, finished), the n of one problem next to each other.

    `spend` gets the tokens and the floating-point operations of it.

    Raises:
        ConfigError: prompts that do not fit the model with `max_new_tokens`.
    """
    check_fit("sample", policy, problems, decoding.max_new_tokens)
    with closing(BankSampler(policy, decoding)) as sampler:
        return sampler.sample(problems, seed, on_batch, spend)


class BankSampler:
    """A policy in its engine, which is opened once for all parts of a bank."""

    def __init__(self, policy: Policy, decoding: Decoding) -> None:
        """
        Raises:
            ValueError: the engine does not run here; the message says what to do.
        """
        self.policy, self.decoding = policy, decoding
        self.engine = open_engine(decoding.engine, policy.model, policy.tokenizer)

    def sample(
        self,
        problems: Sequence[Row],
        seed: int,
        on_batch: Callable[[int], None] | None = None,
        spend: Callable[[float, float], None] | None = None,
        first_row: int = 0,
    ) -> list[Row]:
        """See `sample`. Where `problems` are a part of more, `first_row` is the number of their first solution among
        those of all, so that the parts are what would be sampled at once."""
        policy, decoding = self.policy, self.decoding
        sampling = Sampling(
            n=decoding.n,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            max_new_tokens=policy.limit(decoding.max_new_tokens),
            seed=seed,
            batch_size=decoding.batch_size,
            first_row=first_row,
            top_p=decoding.top_p,
            min_p=decoding.min_p,
            stop=(*decoding.stop, *policy.text_format.stop),
        )
        prompts = [policy.prompt(problem["problem"]) for problem in problems]
        rollouts = self.engine.sample(prompts, sampling, on_batch)
        if spend:
            spend(*spent.sampling(policy.model, rollouts.prompt_ids, rollouts.completion_ids))
        return sample_rows(problems, rollouts, decoding.n, policy.text_format)

    def close(self) -> None:
        self.engine.close()


def sample_rows(problems: Sequence[Row], rollouts: Rollouts, n: int, text_format: TextFormat = SECTIONS) -> list[Row]:
    rows = []
    for index, (sampled, ended) in enumerate(zip(rollouts.texts, rollouts.finished, strict=True)):
        text, answer, finished = text_format.completed(sampled, ended)
        rows.append(
            {
                "problem_id": problems[index // n]["problem_id"],
                "sample_id": index % n,
                "text": text,
                "answer": answer,
                "finished": finished,
            }
        )
    return rows


def check_fit(where: str, policy: Policy, problems: Sequence[Row], max_new_tokens: int) -> None:
    """Prompts, thoughts and solutions fit the model: asked before a stage samples.

    Raises:
        ConfigError: some do not, by problem id.
    """
    encoded = encode_prompts(policy.tokenizer, [policy.prompt(row["problem"]) for row in problems])
    names = [row["problem_id"] for row in problems]
    check_context(where, policy.model, encoded, policy.limit(max_new_tokens), names)


def grade(rows: Sequence[Row], labels: Mapping[str, Label], progress: bool = False) -> list[Row]:
    """The rows whose problem has a label, with `correct` and `reason` from the answer checker."""
    known = [row for row in rows if row["problem_id"] in labels]
    with answer_pool(labels) as pool:
        programs = any(is_tests(labels[row["problem_id"]].answer) for row in known[:1])
        answers = (program_of(row) if programs else row["answer"] for row in known)
        gold = (labels[row["problem_id"]].answer for row in known)
        verdicts = pool.check(zip(gold, answers, strict=True), progress=progress)
    return [{**row, "correct": v.equal, "reason": v.reason} for row, v in zip(known, verdicts, strict=True)]


def score(
    rows: Sequence[Row],
    problems: Mapping[str, Row],
    scorer: Scorer,
    name: str,
    on_scored: Callable[[int], None] | None = None,
    text_format: FormatOf = SECTIONS,
    spend: Callable[[float, float], None] | None = None,
) -> list[Row]:
    """Rows with `step_scores`, `score` (by the reward model's own aggregation) and `reward_model`.

    `spend` gets the tokens and the floating-point operations of it, as if equal texts were each read. `text_format` is
    that of the rows, or a function that gives that of a row; steps cut by it go into the reward model's own template.
    """

    def steps(row: Row) -> list[str]:
        return (text_format if isinstance(text_format, TextFormat) else text_format(row)).split_steps(row["text"])

    items = ((problems[row["problem_id"]]["problem"], steps(row)) for row in rows)
    scored, tokens = [], 0
    for row, result in zip(rows, scorer.score_stream(items, on_scored=on_scored), strict=True):
        tokens += result.tokens
        scored.append({**row, "step_scores": result.steps, "score": result.score, "reward_model": name})
    if spend and rows:
        spend(tokens, spent.scoring(scorer.model, tokens, len(rows)))
    return scored


def aggregate_steps(rows: Iterable[Row], how: str) -> list[float]:
    """One score a row from its step scores."""
    return [float(aggregate(row["step_scores"], how)) for row in rows]


def as_matrix(rows: Sequence[Row], values: Sequence[Any], what: str = "samples") -> tuple[list[str], np.ndarray]:
    """Values of a bank as a (P, K) array, with the problem ids in order of first appearance.

    Raises:
        ConfigError: problems with different numbers of samples.
    """
    by_problem: dict[str, list[Any]] = defaultdict(list)
    for row, value in zip(rows, values, strict=True):
        by_problem[row["problem_id"]].append(value)
    counts = {len(row) for row in by_problem.values()}
    if len(counts) > 1:
        raise ConfigError(
            f"{what}: problems have between {min(counts)} and {max(counts)} samples; every one needs the same n"
        )
    return list(by_problem), np.array(list(by_problem.values()))
