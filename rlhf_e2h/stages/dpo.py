"""Optimise a policy with iterative DPO on pairs ranked by a reward model, with TRL's DPOTrainer.

For each problem of all levels, solutions are sampled and scored: reward-model score in [0, 1], plus 1 if the checker
finds the answer right, which it can say on easy problems only (Sun et al. 2024, appendix C.3). A pair needs a margin
above `margin`. The paper's margin of 1.0 gives no pair where the answer is unknown, because such scores stay below 1;
there `margin_unlabelled` holds, on the reward-model score alone. Without a reward model right solutions are paired with
wrong ones, of problems whose answers may be read. Writes a model folder and pairs_ROUND.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from reward_models.lora import four_bit, lora_config
from reward_models.model import freeze_parts
from reward_models.one_reader import one_rank_reads, sharding
from reward_models.records import write_jsonl
from rlhf_e2h.encoding import check_positions, preference_rows
from rlhf_e2h.parallel.processes import release_memory
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.records import Preference, pairs_file
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Decoding, Row
from rlhf_e2h.samples.judged import by_problem, summary
from rlhf_e2h.samples.round_inputs import open_rounds
from rlhf_e2h.samples.rounds import Rounds
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.arguments import TrainingSettings, trained, trainer_arguments
from rlhf_e2h.training.encoded_trainers import dpo_trainer, shard_reference
from rlhf_e2h.training.lengths import report_lengths
from rlhf_e2h.training.models import Policy, open_policy
from rlhf_e2h.training.precision import hold_frozen

VERSION = 3
TRAITS = Traits(
    order=110,
    about="optimise a policy with DPO on pairs ranked by a reward model (TRL)",
    trains=True,
    distributed=True,
    tiny={"margin": 0.0, "margin_unlabelled": 0.0, "training.batch_size": 2, "rounds": 1, "decoding.n": 4},
)
Loss = Literal["sigmoid", "cdpo", "ipo", "rpo", "rpo_nll", "sigmoid_norm", "robust"]


@dataclass
class DPOTraining(TrainingSettings):
    """Of a round."""

    ARGUMENTS: ClassVar[str] = "trl.DPOConfig"

    learning_rate: float = 2e-6
    batch_size: int = 64  # pairs


@dataclass
class Config:
    """Settings of the `dpo` stage."""

    policy: Input  # model to start from
    data: Input  # output of a prepare stage
    reward_model: Input | None = None  # without it only problems with a readable answer are asked
    # whose answers the checker may read; full and hard only in a stage with 'full', 'dagger' or 'hardonly' in its name
    labels: Literal["easy", "full", "hard"] = "easy"
    aggregation: str = "min"  # of step scores: min, prod, mean, ...
    levels: list[int] | None = None  # prompts of these levels; all if not given
    problems: int | None = None  # at most N prompts a round
    rounds: int = 1  # each samples from the policy of the round before; the paper makes at most 5
    # policy to stay near: the one of the start, or the one that the round starts from
    reference: Literal["first", "previous"] = "first"
    margin: float = 1.0  # least difference of scores in a pair whose problem has an easy label
    margin_unlabelled: float = 0.5  # the same on the reward-model score alone, where no label may be read
    max_pairs: int = 3  # a problem
    # With h the difference of log-ratios to the reference: sigmoid -log s(beta h); cdpo the same with labels flipped at
    # the rate label_smoothing; robust its unbiased form; ipo (h/length - 1/(2 beta))^2; rpo half of (log-ratio
    # -/+ 1/(2 beta))^2 for both texts, as in the paper's code; rpo_nll sigmoid plus nll_weight times the chosen
    # text's negative log-likelihood (Pang et al. 2024); sigmoid_norm sigmoid on log-ratios averaged over tokens
    loss: Loss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0  # cdpo and robust: share of pairs taken to be the wrong way round, below 0.5
    nll_weight: float = 1.0  # rpo_nll only
    decoding: Decoding = field(default_factory=lambda: Decoding(n=8))
    # samples of `policy` that are there already, for the first round: a sample stage, or a scored file of a rerank
    # stage; the first decoding.n of each problem are taken
    samples: Input | None = None
    # which round's weights are written: best on easy validation problems, greedily; of equal ones the last
    keep: Literal["last", "best"] = "last"
    eval_problems: int = 200  # at most N easy validation problems, for best
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings)
    training: DPOTraining = field(default_factory=DPOTraining)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.max_pairs < 1:
            raise ValueError(f"rounds {self.rounds} and max_pairs {self.max_pairs} must be at least 1")
        if self.reward_model is None and not 0 <= self.margin < 1:
            raise ValueError(
                f"margin {self.margin}: without reward_model scores are 0 or 1, so no pair is further apart; set "
                "margin: 0"
            )
        smooth = self.loss in ("cdpo", "robust")
        if smooth and not 0 < self.label_smoothing < 0.5:
            raise ValueError(f"loss {self.loss} needs label_smoothing between 0 and 0.5, found {self.label_smoothing}")
        if self.label_smoothing and not smooth:
            raise ValueError(f"loss {self.loss} has no label_smoothing; set loss: cdpo, or robust")


def main(config: Config, run: StageRun) -> None:
    start = run.path(config.policy)
    rounds, pool = open_rounds(config, run, "DPO")
    for number in range(config.rounds):
        problems = rounds.problems(pool, config.problems, number)
        rows = rounds.judged(number, problems, run.seed * 1009 + number)
        chosen = pairs(rows, {problem["problem_id"]: problem for problem in problems}, config, rounds.text_format)
        if not chosen:
            raise ConfigError(
                f"{run.name}: no pair reaches the margin {config.margin} (labelled) or {config.margin_unlabelled} "
                "(unlabelled); lower them, or sample more or hotter"
            )
        if run.is_main:
            write_jsonl(run.out / pairs_file(number), chosen)
            run.log({**summary(rows), **pair_counts(chosen)}, step=number)
        if rounds.begin(number):
            _round(rounds, start, chosen, config, run, number)
            release_memory()
        rounds.validate(number)
    rounds.finish(config.rounds)
    run.finish(rounds=config.rounds, **pair_counts(chosen))


def _round(
    rounds: Rounds, start: Path, chosen: list[dict[str, Any]], config: Config, run: StageRun, number: int
) -> None:
    """A function of its own, so that its models are gone when the next round samples."""
    bits = four_bit(config.training)
    other = number > 0 and config.reference == "first"
    reference: Any = None
    with one_rank_reads():
        policy = rounds.policy(number, bits)
        if other:
            reference = open_policy(start, quantization=bits).model
        elif sharding() and not config.training.lora.r:  # TRL would read the policy again, on every rank
            reference = rounds.policy(number).model
    rounds.keep(number, _train(policy, reference, chosen, config, run, number), policy.tokenizer)


def pairs(
    rows: Sequence[Row], problems: dict[str, Row], config: Config, text_format: TextFormat = SECTIONS
) -> list[dict[str, Any]]:
    """Preference rows (prompt, chosen, rejected, margin), the widest margins first, at most `max_pairs` a problem.

    Only finished samples are paired. On a problem without a label the chosen one has an answer and no empty step:
    reward models like what says nothing, and no checker is there to object.
    """
    found: list[dict[str, Any]] = []
    for problem_id, group in by_problem(rows).items():
        prompt = text_format.prompt(problems[problem_id]["problem"])
        scored = sorted(
            (((row["rm"] or 0.0) + bool(row["correct"]), row) for row in group if row["finished"]), key=lambda s: -s[0]
        )
        labelled = group[0]["correct"] is not None
        margin = config.margin if labelled else config.margin_unlabelled
        good = scored if labelled else [entry for entry in scored if _says_something(entry[1], text_format)]
        # The best with the worst, the second best with the second worst: each text in one pair at most.
        both_ends = list(zip(good, reversed(scored), strict=False))[: config.max_pairs]
        for (high, best), (low, worst) in both_ends:
            if high - low <= margin:
                break
            pair = Preference(
                prompt=prompt,
                chosen=text_format.training_text(best["text"]),
                rejected=text_format.training_text(worst["text"]),
                end=text_format.end,
                margin=high - low,
                problem_id=problem_id,
                labelled=labelled,
            )
            found.append(dict(pair))
    return found


def _says_something(row: Row, text_format: TextFormat) -> bool:
    return bool((row["answer"] or "").strip()) and all(step.strip() for step in text_format.split_steps(row["text"]))


def pair_counts(chosen: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {"dpo/pairs": len(chosen), "dpo/pairs_labelled": sum(pair["labelled"] for pair in chosen)}


def trl_losses(loss: Loss, label_smoothing: float, nll_weight: float) -> dict[str, Any]:
    """The loss as TRL's DPOConfig composes it: names, weights and smoothing.

    TRL has no cDPO. With e the smoothing, S the sigmoid loss, F the same for the flipped pair and R = ((1 - e) S -
    e F) / (1 - 2e) TRL's robust loss, cDPO is (1 - e) S + e F = 2 (1 - e) S - (1 - 2e) R. Its sppo_hard is twice the
    squared loss of the easy-to-hard paper's code with win rates 1 and 0.
    """
    e = label_smoothing
    composed: dict[str, tuple[list[str], list[float]]] = {
        "cdpo": (["sigmoid", "robust"], [2 * (1 - e), -(1 - 2 * e)]),
        "rpo": (["sppo_hard"], [0.5]),
        "rpo_nll": (["sigmoid", "sft"], [1.0, nll_weight]),
    }
    names, weights = composed.get(loss, ([loss], [1.0]))
    return {"loss_type": names, "loss_weights": weights, "label_smoothing": e}


def _train(
    policy: Policy, reference: Any, rows: list[dict[str, Any]], config: Config, run: StageRun, number: int
) -> Any:
    """The trained model. Without `reference`, TRL takes the policy as it is before training."""
    from datasets import Dataset

    arguments = trainer_arguments(
        config.training,
        run,
        **trl_losses(config.loss, config.label_smoothing, config.nll_weight),
        beta=config.beta,
        max_length=config.training.max_length,
    )
    encoded = preference_rows(policy.tokenizer, rows)
    parts = [(len(row["prompt_ids"]), max(len(row["chosen_ids"]), len(row["rejected_ids"]))) for row in encoded]
    report_lengths(run, [(prompt, prompt + text) for prompt, text in parts], config.training.max_length, "pairs")
    check_positions(run.name, policy.model, [prompt + text for prompt, text in parts], config.training.max_length)
    freeze_parts(policy.model, config.training.freeze_embeddings, config.training.freeze_norms)
    if reference is not None:
        shard_reference(reference, arguments)
    trainer = dpo_trainer()(
        model=policy.model,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list(encoded),
        processing_class=policy.tokenizer,
        peft_config=lora_config(config.training.lora),
    )
    if config.training.lora.r:
        hold_frozen(trainer.model, config.training.bf16, always_autocast=True)
    model, _ = trained(trainer, run, f"DPO {number + 1}: training")
    return model
