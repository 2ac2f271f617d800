"""Optimise a policy with DPO on pairs ranked by a reward model, with TRL's DPOTrainer.

For each problem of all levels, solutions are sampled and scored: reward-model score in [0, 1], plus 1 if the checker
finds the answer right, which it can say on easy problems only (Sun et al. 2024, appendix C.3). A pair needs a margin
above `margin`. The paper's margin of 1.0 gives no pair where the answer is unknown, because such scores stay below 1;
there `margin_unlabelled` holds, on the reward-model score alone. Writes a model folder and pairs_ROUND.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_models.records import write_jsonl
from rlhf_e2h.bank import Decoding, Row, sample
from rlhf_e2h.config import ConfigError, Input
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.judge import by_problem, judged, summary
from rlhf_e2h.models import LoraSettings, Policy, lora_config, open_policy, save_policy
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runs import StageRun
from rlhf_e2h.stages.sample import choose
from rlhf_e2h.training import TrainingSettings, fit, trainer_arguments

VERSION = 1


@dataclass
class Config:
    """Settings of the `dpo` stage."""

    policy: Input  # model to start from; also the reference
    data: Input  # output of a prepare stage
    reward_model: Input
    aggregation: str = "min"  # of step scores: min, prod, mean, ...
    levels: list[int] | None = None  # prompts of these levels; all if not given
    problems: int | None = None  # at most so many prompts a round
    rounds: int = 1  # each samples from the policy of the round before
    margin: float = 1.0  # least difference of scores in a pair whose problem has an easy label
    margin_unlabelled: float = 0.5  # the same on the reward-model score alone, where no label may be read
    max_pairs: int = 3  # a problem
    loss: Literal["sigmoid", "ipo", "robust", "sigmoid_norm"] = "sigmoid"  # a loss name of TRL
    beta: float = 0.1
    label_smoothing: float = 0.0  # with the sigmoid loss above 0: cDPO
    decoding: Decoding = field(default_factory=lambda: Decoding(n=8))
    lora: LoraSettings = field(default_factory=LoraSettings)
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(learning_rate=2e-6, batch_size=64))


def main(config: Config, run: StageRun) -> None:
    policy = open_policy(run.path(config.policy))
    data = run.path(config.data)
    labels = run.labels(data, "easy", splits=("train",))
    pool = choose(read_problems(data, "train"), config.levels, None)
    for number in range(config.rounds):
        problems = _round(pool, config.problems, number)
        with run.progress(len(problems) * config.decoding.n, f"DPO {number + 1}: sampling", "solutions") as bar:
            rows = sample(policy, problems, config.decoding, run.seed * 1009 + number, bar.advance)
        known = {problem["problem_id"]: problem for problem in problems}
        rows = judged(rows, known, labels, run.path(config.reward_model), config.aggregation)
        chosen = pairs(rows, known, config)
        if not chosen:
            raise ConfigError(
                f"{run.name}: no pair reaches the margin {config.margin} (labelled) or {config.margin_unlabelled} "
                "(unlabelled); lower them, or sample more or hotter"
            )
        write_jsonl(run.out / f"pairs_{number}.jsonl", chosen)
        run.log({**summary(rows), "dpo/pairs": len(chosen)}, step=number)
        policy = Policy(_train(policy, chosen, config, run, number), policy.tokenizer)
    save_policy(policy.model, policy.tokenizer, run.out)
    run.finish(pairs=len(chosen), rounds=config.rounds)


def _round(pool: list[Row], count: int | None, number: int) -> list[Row]:
    """Problems of one round: consecutive slices of the pool, each with all levels in it, wrapping around."""
    if count is None or count >= len(pool):
        return pool
    spread = choose(pool, None, len(pool))
    stride = max(1, len(spread) // count)
    return [spread[(number + i * stride) % len(spread)] for i in range(count)]


def pairs(rows: Sequence[Row], problems: dict[str, Row], config: Config) -> list[dict[str, Any]]:
    """Preference rows (prompt, chosen, rejected, margin), the widest margins first, at most `max_pairs` a problem."""
    found: list[dict[str, Any]] = []
    for problem_id, group in by_problem(rows).items():
        prompt = SECTIONS.prompt(problems[problem_id]["problem"])
        scored = sorted(
            ((row["rm"] + bool(row["correct"]), row) for row in group if row["finished"]), key=lambda s: -s[0]
        )
        margin = config.margin if group[0]["correct"] is not None else config.margin_unlabelled
        # The best with the worst, the second best with the second worst: each text in one pair at most.
        both_ends = list(zip(scored, reversed(scored), strict=True))[: config.max_pairs]
        for (high, best), (low, worst) in both_ends:
            if high - low <= margin:
                break
            found.append(
                {
                    "prompt": prompt,
                    "chosen": best["text"],
                    "rejected": worst["text"],
                    "margin": high - low,
                    "problem_id": problem_id,
                }
            )
    return found


def _train(policy: Policy, rows: list[dict[str, Any]], config: Config, run: StageRun, number: int) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        **trainer_arguments(config.training, run),
        beta=config.beta,
        loss_type=[config.loss],
        label_smoothing=config.label_smoothing,
        max_length=config.training.max_length,
    )
    fields = ("prompt", "chosen", "rejected")
    trainer = DPOTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list([{name: row[name] for name in fields} for row in rows]),
        processing_class=policy.tokenizer,
        peft_config=lora_config(config.lora) if config.lora.rank else None,
    )
    fit(trainer, run, f"DPO {number + 1}: training")
    return trainer.accelerator.unwrap_model(trainer.model)
