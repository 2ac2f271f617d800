"""The methods of the supervision-gap study. Each learns from chosen train problems and answers the test problems.

| method | learns | answers |
|---|---|---|
| icl | k solved problems in the context | greedy |
| sft | fine-tuned (LoRA if asked) on n solutions | greedy |
| probe | logistic probe on hidden states of sampled solutions of n problems, right or wrong | best of the bank |
| rm | outcome reward model on the same | best of the bank |
| prm | process reward model on the steps of the same | best of the bank, a solution as good as its worst step |
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.lora import four_bit
from rlhf_e2h.prompts import few_shot
from rlhf_e2h.records import Row
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.studies.probes import fit_logistic
from rlhf_e2h.text_formats import FormatSettings, build_format
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.finetune import finetune
from rlhf_e2h.training.models import Policy, open_policy, save_policy


@dataclass(frozen=True)
class Bank:
    """Sampled solutions with their truth: rows in order, the row numbers of each problem, and probe features."""

    rows: list[Row]
    of_problem: Mapping[str, list[int]]
    features: NDArray[np.floating] | None = None  # (N, D)

    @classmethod
    def of(cls, rows: list[Row], features: NDArray[np.floating] | None = None) -> Bank:
        found: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            found.setdefault(row["problem_id"], []).append(index)
        return cls(rows, found, features)

    def indices(self, problem_ids: Sequence[str]) -> list[int]:
        return [index for problem_id in problem_ids for index in self.of_problem.get(problem_id, [])]


def best_of_bank(bank: Bank, problems: Sequence[str], scores_N: NDArray[np.floating]) -> list[float]:
    """Is the best-scored finished solution right? 0 where none is finished; the first of equal scores."""
    found = []
    for problem_id in problems:
        rows = [index for index in bank.of_problem[problem_id] if bank.rows[index]["finished"]]
        best = max(rows, key=lambda index: scores_N[index]) if rows else None
        found.append(float(bank.rows[best]["correct"]) if best is not None else 0.0)
    return found


def random_of_bank(bank: Bank, problems: Sequence[str]) -> list[float]:
    """Accuracy of a solution drawn at random: what best-of-n gives without any supervision."""
    return [float(np.mean([bank.rows[i]["correct"] for i in bank.of_problem[p]])) for p in problems]


def in_context(
    base: Path,
    solved: Sequence[tuple[str, str]],
    shots: int,
    max_characters: int = 1500,
    text_format: FormatSettings | None = None,
) -> Policy:
    """The base model with solved problems before every prompt; none of them for shots = 0."""
    policy = open_policy(base, text_format=text_format, sections=True)
    short = [pair for pair in solved if sum(map(len, pair)) <= max_characters]
    if len(short) < shots:
        raise ConfigError(f"{len(short)} exemplars of at most {max_characters} characters, {shots} shots; lower shots")
    if policy.text_format.name == "chat":
        settings = text_format or FormatSettings("chat")
        policy.text_format = build_format(settings, policy.tokenizer, str(base), short[:shots])
    else:
        policy.prefix = few_shot(short[:shots], policy.tokenizer.eos_token or "\n\n", policy.text_format)
    return policy


def fine_tuned(
    base: Path, solved: Sequence[tuple[str, str]], training: TrainingSettings, run: StageRun,
    text_format: FormatSettings | None = None,
) -> Policy:  # fmt: skip
    """The base model after SFT on solved problems."""
    policy = open_policy(base, text_format=text_format, sections=True, quantization=four_bit(training))
    texts = policy.text_format
    rows = [texts.row(problem, texts.exemplar(solution)) for problem, solution in solved]
    shutil.rmtree(run.scratch / "trainer", ignore_errors=True)
    model, _ = finetune(policy.model, policy.tokenizer, rows, training, run)
    if training.lora.r:
        save_policy(model, policy.tokenizer, run.scratch / "policy", texts)
        return open_policy(run.scratch / "policy")
    return Policy(model, policy.tokenizer, "", texts)


def probe_scores(train: Bank, chosen: Sequence[int], labels_N: NDArray[np.floating], test: Bank) -> NDArray[Any]:
    """P(right) of the test bank by a standardised logistic probe on the chosen solutions."""
    assert train.features is not None and test.features is not None
    return fit_logistic(train.features[list(chosen)], labels_N, standardise=True).predict(test.features)
