"""Optimise a policy with ReST-EM: sample, keep the good solutions, fine-tune on them, repeat.

Without a reward model, as in the paper, only problems whose answers may be read are asked, and the checker filters.
With one, problems without a readable answer are asked too: a solution of those is kept if its answer wins the weighted
vote and its own score reaches `threshold`. Singh et al. 2024 (arXiv 2312.06585); Sun et al. 2024, appendix C.3. Writes
a model folder and kept_ROUND.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reward_models.lora import four_bit
from reward_models.one_reader import one_rank_reads
from reward_models.records import write_jsonl
from rlhf_e2h.parallel.processes import release_memory
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Decoding, Row
from rlhf_e2h.samples.judged import by_problem, summary, vote
from rlhf_e2h.samples.round_inputs import open_rounds
from rlhf_e2h.samples.rounds import Rounds
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.finetune import finetune
from rlhf_e2h.training.models import open_policy

VERSION = 3
TRAITS = Traits(
    order=120,
    about="optimise a policy with ReST-EM: sample, filter, fine-tune",
    trains=True,
    distributed=True,
    tiny={"threshold": 0.0, "training.bf16": False, "rounds": 1, "decoding.n": 4},
)


@dataclass
class Config:
    """Settings of the `rest` stage."""

    policy: Input  # model that samples first
    data: Input  # output of a prepare stage
    reward_model: Input | None = None  # judges problems without a readable answer; without it they are left out
    # whose answers the checker may read; full and hard only in a stage with 'full', 'dagger' or 'hardonly' in its name
    labels: Literal["easy", "full", "hard"] = "easy"
    aggregation: str = "prod"  # of step scores; the paper weighs votes by the product
    threshold: float = 0.5  # least score of a kept solution whose problem has no readable label
    levels: list[int] | None = None  # prompts of these levels; all if not given
    problems: int | None = None  # at most N prompts a round
    rounds: int = 2
    max_kept: int = 10  # solutions a problem
    # weights that a round fine-tunes: last round's, the first policy's, or those of `base`
    start_from: Literal["previous", "first", "base"] = "previous"
    base: Input | None = None  # with start_from: base, a model that has not been fine-tuned
    decoding: Decoding = field(default_factory=lambda: Decoding(n=32))
    # samples of `policy` that are there already, for the first round: a sample stage, or a scored file of a rerank
    # stage; the first decoding.n of each problem are taken
    samples: Input | None = None
    # which round's weights are written: best on easy validation problems, greedily; of equal ones the last
    keep: Literal["last", "best"] = "last"
    eval_problems: int = 200  # at most N easy validation problems, for best
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.max_kept < 1:
            raise ValueError(f"rounds {self.rounds} and max_kept {self.max_kept} must be at least 1")
        if (self.start_from == "base") != (self.base is not None):
            raise ValueError("start_from: base and the setting `base`, a model folder, go together; set both or none")


def main(config: Config, run: StageRun) -> None:
    rounds, pool = open_rounds(config, run, "ReST")
    for number in range(config.rounds):
        problems = rounds.problems(pool, config.problems, number)
        rows = rounds.judged(number, problems, run.seed * 1013 + number)
        kept = [row for group in by_problem(rows).values() for row in keep(group, config.threshold)[: config.max_kept]]
        if not kept:
            raise ConfigError(f"{run.name}: round {number + 1} keeps no solution; lower threshold or sample more")
        if run.is_main:
            write_jsonl(run.out / f"kept_{number}.jsonl", kept)
            run.log({**summary(rows), **kept_counts(kept)}, step=number)
        if rounds.begin(number):
            known = {problem["problem_id"]: problem for problem in problems}
            made = rounds.text_format
            _round(
                rounds,
                [made.row(known[row["problem_id"]]["problem"], row["text"]) for row in kept],
                config,
                run,
                number,
            )
            release_memory()
        rounds.validate(number)
    rounds.finish(config.rounds)
    run.finish(rounds=config.rounds, **kept_counts(kept))


def _round(rounds: Rounds, texts: list[dict[str, str]], config: Config, run: StageRun, number: int) -> None:
    """A function of its own, so that its models are gone when the next round samples."""
    other = {"previous": None, "first": config.policy, "base": config.base}[config.start_from]
    bits = four_bit(config.training)
    with one_rank_reads():
        policy = rounds.policy(number, bits) if other is None else open_policy(run.path(other), quantization=bits)
    title = f"ReST {number + 1}"
    model, _ = finetune(policy.model, policy.tokenizer, texts, config.training, run, title)
    rounds.keep(number, model, policy.tokenizer)


def kept_counts(kept: list[Row]) -> dict[str, int]:
    return {"rest/kept": len(kept), "rest/kept_labelled": sum(row["correct"] is not None for row in kept)}


def keep(group: list[Row], threshold: float) -> list[Row]:
    """The solutions of one problem to learn from, each text once: right ones, or those the reward model trusts."""
    if group[0]["correct"] is not None:
        good = [row for row in group if row["correct"]]
    else:
        winners = vote(group)
        good = [row for index, row in enumerate(group) if index in winners and row["rm"] >= threshold]
        good.sort(key=lambda row: -row["rm"])
    return list({row["text"]: row for row in good if row["finished"]}.values())
