"""Fine-tune a policy on written solutions with TRL's SFTTrainer; the loss is on the solution only.

Reads problems and labels of a `prepare` stage (easy labels, or all of them for the full-data baseline).
Writes a model folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reward_models.lora import four_bit
from reward_models.one_reader import one_rank_reads
from reward_models.records import read_jsonl
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.data.levels import choose
from rlhf_e2h.data.solution_formats import Format, rewrite
from rlhf_e2h.data.step_targets import step_targets
from rlhf_e2h.prompts import TextFormat
from rlhf_e2h.records import Row
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.finetune import finetune
from rlhf_e2h.training.mixing import MixtureSettings
from rlhf_e2h.training.models import open_policy, save_policy
from rlhf_e2h.training.precision import training_dtype
from rlhf_e2h.training.sft_plan import plan_training

VERSION = 4
TRAITS = Traits(
    order=30,
    about="fine-tune a policy on written solutions (TRL)",
    trains=True,
    distributed=True,
    tiny={"training.bf16": False, "training.num_train_epochs": 1},
)


@dataclass
class Config:
    """Settings of the `sft` stage."""

    policy: Input  # model to start from
    data: Input  # output of a prepare stage
    # whose solutions to learn from; full only in a stage with 'full' in its name, hard with 'hardonly'
    labels: Literal["easy", "full", "hard"] = "easy"
    limit: int | None = None  # at most N solutions, of every level its share
    # text of prompts and solutions: sections, chat, minerva or {template: FILE}; auto: that of the policy
    format: FormatSettings = field(default_factory=FormatSettings)
    # what a row is: a whole solution, or one step that a person rated +1, given those before it (PRM800K; the paper's)
    targets: Literal["solutions", "steps"] = "solutions"
    # what is learnt of a solution: all steps, what each comes to, the answer before the steps, or the answer alone
    # (reversed: its last digit first)
    form: Format = "full"
    # selected.jsonl of a select stage: only these problems
    keep: Input | None = None
    mixture: MixtureSettings | None = None  # skills of each batch
    # for `mixture: {weights: doremi}`: the model whose losses are subtracted
    reference: Input | None = None
    # mixture.json of another sft stage: the weights that it found, in the place of `weights` of the mixture
    shares: Input | None = field(default=None, metadata={"added": True})
    # graph.json of a skillgraph stage, for `mixture: {weights: skill_it}` in the place of its `graph`
    skill_graph: Input | None = None
    dynamics: bool = False  # log training dynamics for `e2h map`
    snapshots: int = 0  # steps between weights kept for `e2h speed`; 0: none
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.targets == "steps" and (self.form != "full" or self.keep):
            raise ValueError("targets: steps learns steps as they were rated; remove `form` and `keep`")
        if self.shares and (not self.mixture or self.mixture.adaptive):
            raise ValueError("shares are weights of a mixture that has none of its own; add `mixture: {skill: level}`")


def main(config: Config, run: StageRun) -> None:
    path = run.path(config.policy)
    dtype = training_dtype(path, config.training)
    bits = four_bit(config.training)
    with one_rank_reads():
        policy = open_policy(path, dtype, text_format=config.format, sections=True, quantization=bits)
    run.use_format(policy.text_format, policy.why)
    data, texts = run.path(config.data), policy.text_format
    problems, rows = (_steps if config.targets == "steps" else _solutions)(config, run, data, texts)
    if not rows:
        without = run.results.get("without_solution", 0)
        raise ConfigError(
            f"{run.name}: no {config.targets} with {config.labels} labels in {data} ({without} problems have an answer "
            "only); give solutions to `prepare`, or start from a model that answers without this stage"
        )
    plan = plan_training(config, run, policy.tokenizer, problems, rows, texts)
    model, loss = finetune(policy.model, policy.tokenizer, plan.rows, config.training, run, extras=plan)
    plan.finish(run)
    if run.is_main:
        save_policy(model, policy.tokenizer, run.out, texts)
    run.finish(**{config.targets: len(rows)}, loss=loss)


def _solutions(config: Config, run: StageRun, data: Path, texts: TextFormat) -> tuple[list[Row], list[Row]]:
    """Problems and their rows."""
    labels = run.labels(data, config.labels, splits=("train",))
    kept = {row["problem_id"] for row in read_jsonl(run.path(config.keep))} if config.keep else labels
    named = [p for p in read_problems(data, "train") if p["problem_id"] in labels and p["problem_id"] in kept]
    solved = [p for p in named if labels[p["problem_id"]].solution]
    problems = choose(solved, None, config.limit)
    rows = [
        texts.row(problem["problem"], rewrite(labels[problem["problem_id"]].solution, config.form, texts))
        for problem in problems
    ]
    if without := len(named) - len(solved):
        run.finish(without_solution=without)
    return problems, rows


def _steps(config: Config, run: StageRun, data: Path, texts: TextFormat) -> tuple[list[Row], list[Row]]:
    """The same with a step a row; what stands for its problem has a number of its own for its id."""
    found = list(step_targets(run.stepwise(data, config.labels)))
    steps: list[Row] = [{"problem_id": str(i), "problem": t.problem, "level": t.level} for i, t in enumerate(found)]
    problems = choose(steps, None, config.limit)
    return problems, [found[int(problem["problem_id"])].row(texts) for problem in problems]
