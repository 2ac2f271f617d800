"""Train a reward model (ORM, PRM or OPRM) with the `reward_models` package.

Reads graded samples (their outcome), optionally step labels, and the problems of a `prepare` stage. Writes a model
folder that plain transformers loads, and quality.json with its metrics on held-out easy problems.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import AutoConfig

from reward_models.arguments import planned_steps
from reward_models.contract import StepContract
from reward_models.kinds import kind_of
from reward_models.lengths import WARN
from reward_models.records import Stepwise, write_jsonl
from reward_models.settings import TrainSettings
from reward_models.train import train
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.parallel.processes import forget_divided_loading
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.progress import Bar
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.text_formats import FormatSettings, format_of
from rlhf_e2h.training import spent
from rlhf_e2h.training.chance import at_chance
from rlhf_e2h.training.items import FLIPS, RewardDynamics, flips, reward_items, with_flips
from rlhf_e2h.training.mixing import MixtureSettings, RowOrder, build_sampler, weight_metrics
from rlhf_e2h.training.models import policy_format
from rlhf_e2h.training.reward_records import at_most, gather, held_out, thinned
from rlhf_e2h.training.skill_sampler import SkillSampler

VERSION = 5
TRAITS = Traits(
    order=80,
    about="train a reward model: ORM, PRM or OPRM",
    trains=True,
    distributed=True,
    tiny={"held_out": 0.4, "training.num_train_epochs": 1},
)


@dataclass
class Config:
    """Settings of the `reward` stage."""

    # what is trained: orm (outcome), prm (process), oprm (both in one model); see reward_models/kinds.py
    kind: str
    base: Input  # model to start from; the paper starts from the base model, not from SFT
    data: Input  # output of a prepare stage
    graded: Input | None = None  # output of a grade stage: solutions with their outcome
    records: Input | None = None  # JSON Lines with labels of people, in any format of reward_models/formats.py
    # where step labels of graded samples come from: `procedural` checks each step as a person would, `outcome` calls
    # every step of a right solution valid and leaves those of wrong ones unlabelled but for the last
    step_labels: Literal["procedural", "outcome", "none"] = "none"
    reference_solutions: bool = False  # also the written solutions of easy problems, every step valid
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the graded samples
    format: FormatSettings = field(default_factory=FormatSettings)
    template: str | None = None  # text before a solution, with {problem}; that of the format if not given
    balance: float = 3.0  # ORM: at most N wrong solutions a problem for each right one, and the other way round
    # OPRM: `balance` holds for its outcome data too, as in the paper
    balance_outcomes: bool = False
    # PRM, OPRM: train on at most N faultless solutions for each one with a wrong step; a random choice
    faultless_per_faulty: float | None = None
    # at most N records in all, at random, the held-out ones among them
    limit: int | None = None
    held_out: float = 0.1  # share of problems whose records are kept for validation
    # log training dynamics for `e2h map`: one more reading of the data each epoch
    dynamics: bool = False
    # label noise: share of training labels flipped at random; a flip stage chooses them by a data map
    flip_labels: float = 0.0
    # skills of each batch in the place of batches of similar length; not with weights that follow losses
    mixture: MixtureSettings | None = None
    training: TrainSettings = field(default_factory=TrainSettings)  # its seed is that of the run

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        if self.faultless_per_faulty is not None and (not kind.steps or self.faultless_per_faulty <= 0):
            raise ValueError(
                f"faultless_per_faulty is {self.faultless_per_faulty} for kind {self.kind!r}; it must be above 0, and "
                "is for prm and oprm; an orm has `balance`"
            )
        if self.balance_outcomes and not (kind.outcomes and kind.steps):
            raise ValueError(
                f"balance_outcomes is for kind oprm, not {self.kind!r}: an orm is balanced in any case, and a prm "
                "reads no outcomes"
            )
        if not kind.outcomes and self.graded and self.step_labels == "none" and not self.taught_otherwise():
            raise ValueError(
                f"kind: {self.kind} learns from labels of steps, and graded samples have none with step_labels: none. "
                "Set step_labels: procedural (the procedural domain) or outcome, or give `records` with step labels "
                "(those of an annotate stage are such); an orm learns from the samples as they are"
            )
        if self.mixture and self.mixture.adaptive:
            raise ValueError(
                f"mixture.weights {self.mixture.weights!r} follows losses of an sft stage; use another here"
            )

    def taught_otherwise(self) -> bool:
        """Whether there are step labels beside those of graded samples."""
        return bool(self.records) or self.reference_solutions


def main(config: Config, run: StageRun) -> None:
    texts = _text_format(config, run)
    rows = read_problems(run.path(config.data), "train")
    problems = {p["problem_id"]: p["problem"] for p in rows}
    levels = {p["problem"]: {"level": p["level"]} for p in rows if p.get("level")}
    found = gather(config, run, problems, texts)
    records = [
        dataclasses.replace(record, extra=record.extra | levels.get(record.problem, {}))
        for record in at_most(found.records, config.limit, run.seed)
    ]
    # by its text whoever a problem comes from: records may have others than `data`
    training = [record for record in records if not held_out(record.problem, config.held_out)]
    validation = [record for record in records if held_out(record.problem, config.held_out)]
    if config.faultless_per_faulty is not None:
        training = thinned(training, config.faultless_per_faulty, run.seed)
    by_text = {p["problem"]: p for p in rows}
    items = reward_items(training, config.kind, by_text)
    if not training or not validation:
        raise ConfigError(
            f"{run.name}: {len(training)} records to train on and {len(validation)} held out; "
            "both are needed, so give more problems or change held_out"
        )
    contract = StepContract(
        config.kind,
        template=config.template or texts.template,
        separator=texts.separator,
        answer_mark=texts.answer_mark,
    )
    settings = dataclasses.replace(config.training, seed=run.seed)
    if config.flip_labels:
        chosen = flips(range(len(items)), config.flip_labels, len(items), run.seed)
        write_jsonl(run.out / FLIPS, ({"guid": items[index].guid} for index in chosen))
        training = with_flips(training, items, chosen)
        items = reward_items(training, config.kind, by_text)
    dynamics = RewardDynamics(run, training, items) if config.dynamics else None
    with run.progress(1, f"training {config.kind}", "steps") as bar, contextlib.ExitStack() as inside:
        order = _Order(config.mixture, training, by_text, settings) if config.mixture else None

        def on_log(logs: Mapping[str, float]) -> None:
            values = {f"train/{name}": v for name, v in logs.items() if name not in ("step", "max_steps")}
            step = int(logs.get("step", 0))
            run.log(values | (order.weights(step) if order else {}), step=step)

        @functools.cache
        def validating() -> Bar:  # a large model takes minutes for it, after the last step
            return inside.enter_context(run.progress(len(validation), "validating", "records"))

        result = train(
            run.path(config.base), training, config.kind, run.out, settings, validation, on_log, contract, dynamics,
            order, on_step=bar.update, on_validated=lambda count: validating().advance(count),
        )  # fmt: skip
    forget_divided_loading()
    if dynamics:
        dynamics.finish([*training, *validation])
    if result.get("tokens"):
        rows = result["steps"] * settings.batch_size
        base = AutoConfig.from_pretrained(run.path(config.base))
        run.spend(
            result["tokens"], spent.reward_training(base, result["tokens"], rows, settings.gradient_checkpointing)
        )
    _finish(config, run, training, validation, result, found.lost)


def _finish(
    config: Config, run: StageRun, training: Sequence[Stepwise], validation: Sequence[Stepwise],
    result: Mapping[str, Any], lost_before: Mapping[str, int],
) -> None:  # fmt: skip
    """Say what was learnt, and what was left out on the way."""
    metrics = result["validation"]
    write_json(run.out / "quality.json", {"kind": config.kind, "records": len(training), "validation": metrics})
    run.log({f"validation/{name}": v for name, v in metrics.items() if isinstance(v, (int, float))})
    shown = {"step_auc": metrics.get("step_auc"), "outcome_auc": metrics.get("outcome_auc")}
    lost = {name: result[name] for name in ("too_long", "split_otherwise", "without_label")}
    lost["held_out_too_long"] = metrics["skipped"]
    for warning in _losses(result, metrics, config.training.max_length):
        run.warn(warning)
    if (guess := at_chance(config.kind, metrics, validation, result["train_loss"])) is not None:
        run.warn(guess)
    run.finish(
        records=len(training), **{k: v for k, v in shown.items() if v is not None}, **nonzero(**lost_before, **lost)
    )


@dataclass
class _Order:
    """Makes the sampler of a `mixture` once the training rows are known."""

    mixture: MixtureSettings
    records: list[Stepwise]
    problems: Mapping[str, Mapping[str, Any]]  # by text
    settings: TrainSettings
    sampler: SkillSampler | None = None

    def __call__(self, sources: list[int]) -> RowOrder:
        rows = [self.problems.get(self.records[index].problem, {}) for index in sources]
        steps = planned_steps(self.settings, len(rows))
        self.sampler = build_sampler(self.mixture, rows, self.settings.batch_size, steps, self.settings.seed)
        return RowOrder(self.sampler, len(rows))

    def weights(self, step: int) -> dict[str, float]:
        return weight_metrics(self.sampler, max(0, step - 1)) if self.sampler else {}


def _losses(result: Mapping[str, Any], metrics: Mapping[str, Any], limit: int) -> Iterator[str]:
    used = result["used"] + result["too_long"]
    for what, lost, given in (
        ("records", result["too_long"], used),
        ("held-out records", metrics["skipped"], metrics["records"]),
    ):
        if lost > WARN * given:
            yield f"{lost} of {given} {what} are longer than training.max_length={limit} and left out; raise it"
    if result["split_otherwise"] > WARN * used:
        yield (
            f"{result['split_otherwise']} of {used} records have other steps than their text gives, cut at blank "
            "lines: whoever scores such texts scores other steps than were trained"
        )


def _text_format(config: Config, run: StageRun) -> TextFormat:
    """That of the settings, else of the graded samples, else sections."""
    if config.format.name != "auto":
        made, why = policy_format(run.path(config.base), config.format)
    else:
        made = format_of(run.path(config.graded) if config.graded else None)
        why = "that of the graded samples" if config.graded else "no samples, and none is set"
    run.use_format(made.of_rows(), why)
    return made.of_rows()
