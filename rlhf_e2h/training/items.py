"""Labelled items of a training set, their dynamics while a model trains on them, and labels flipped on purpose.

An item is what a label belongs to: a step of a solution for a process reward model, a whole solution for an outcome
reward model or for fine-tuning. Its guid is `record` or `record:step`, the same in every run on the same records.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import TrainerCallback

from reward_models.kinds import IGNORED, kind_of
from reward_models.records import Stepwise, read_jsonl, write_jsonl
from reward_models.score import Scorer
from reward_models.targets import step_targets
from rlhf_e2h.encoding import encode_rows
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.training.dynamics import FOLDER, ITEMS, write_epoch

RECORDS = "records.jsonl"  # all records of a reward model, held-out ones included; `records` of another run reads them
FLIPS = "flips.jsonl"


@dataclass(frozen=True)
class Item:
    """One label. `step` is None for the label of a whole solution."""

    guid: str
    record: str
    problem_id: str | None
    level: int | None
    step: int | None
    label: int
    text: str


def record_ids(records: Sequence[Stepwise]) -> list[str]:
    """A name for each record: its `record_id`, or problem and sample, or its number; made unique by its number."""
    names: list[str] = []
    seen: set[str] = set()
    for index, record in enumerate(records):
        extra = record.extra
        name = str(extra.get("record_id") or f"{extra.get('problem_id', 'record')}/{extra.get('sample_id', index)}")
        names.append(name if name not in seen else f"{name}#{index}")
        seen.add(names[-1])
    return names


def reward_items(records: Sequence[Stepwise], kind: str, problems: Mapping[str, Mapping[str, Any]]) -> list[Item]:
    """The labels that a reward model of `kind` trains on. `problems` has problem_id and level by problem text."""
    items = []
    for name, record in zip(record_ids(records), records, strict=True):
        known = problems.get(record.problem, {})
        place = (name, record.extra.get("problem_id", known.get("problem_id")), known.get("level"))
        targets = step_targets(record, kind)
        if kind_of(kind).is_whole(record):
            if targets[-1] != IGNORED:
                items.append(Item(name, *place, None, int(targets[-1]), record.steps[-1]))
            continue
        for step, target in enumerate(targets):
            if target != IGNORED:
                items.append(Item(f"{name}:{step}", *place, step, int(target), record.steps[step]))
    return items


def flips(candidates: ArrayLike, share: float, n: int, seed: int) -> list[int]:
    """Which labels to flip: round(share * n) of the candidate indices, at random, in ascending order.

    Raises:
        ValueError: share outside (0, 1), or fewer candidates than flips.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1, usually .01 to .1")
    candidates = np.asarray(candidates, dtype=np.int64)
    count = max(1, round(share * n))
    if count > len(candidates):
        raise ValueError(f"{count} labels are to be flipped but only {len(candidates)} are candidates; lower share")
    return sorted(np.random.default_rng(seed).choice(candidates, size=count, replace=False).tolist())


def with_flips(records: Sequence[Stepwise], items: Sequence[Item], chosen: Collection[int]) -> list[Stepwise]:
    """The records with the labels of the chosen items flipped."""
    flipped = {items[index].guid for index in chosen}
    changed = []
    for name, record in zip(record_ids(records), records, strict=True):
        labels, outcome = record.labels, record.outcome
        if labels is not None:
            labels = [
                1 - label if label is not None and f"{name}:{step}" in flipped else label
                for step, label in enumerate(labels)
            ]
        if name in flipped and outcome is not None:
            outcome = 1 - outcome
        changed.append(replace(record, labels=labels, outcome=outcome))
    return changed


class RewardDynamics:
    """Writes the dynamics of a reward model's training items after each epoch, in evaluation mode (no dropout).

    Files go to the stage's scratch folder, so that a killed run keeps the epochs it has, and move on `finish`.
    """

    def __init__(self, run: StageRun, records: Sequence[Stepwise], items: Sequence[Item]) -> None:
        self.run, self.records, self.items = run, records, items
        self.by_record: dict[str, list[Item]] = {}
        for item in items:
            self.by_record.setdefault(item.record, []).append(item)

    def __call__(self, epoch: int, scorer: Scorer) -> None:
        logits: dict[str, float] = {}
        names = record_ids(self.records)
        scored = scorer.score_stream((record.problem, record.steps) for record in self.records)
        for name, scores in zip(names, scored, strict=True):
            if not scores.skipped:  # too long, and so not trained on either
                for item in self.by_record.get(name, []):
                    logits[item.guid] = scores.logits[-1 if item.step is None else item.step]
        kept = [item for item in self.items if item.guid in logits]
        if self.run.is_main:
            rows = ([0.0, logits[item.guid]] for item in kept)
            folder = self.run.scratch / FOLDER
            write_epoch(folder, epoch, (i.guid for i in kept), rows, (i.label for i in kept))

    def finish(self, records: Sequence[Stepwise]) -> None:
        """Move the dynamics to the stage's output, with items.jsonl and all `records` beside them."""
        if self.run.is_main:
            named = [
                replace(r, extra={**r.extra, "record_id": n}) for n, r in zip(record_ids(records), records, strict=True)
            ]
            write_jsonl(self.run.out / RECORDS, (record.to_row() for record in named))
            publish(self.run, self.items)


def publish(run: StageRun, items: Sequence[Item]) -> None:
    """The epochs' files out of the scratch folder, and items.jsonl beside them."""
    write_jsonl(run.out / ITEMS, map(asdict, items))
    if (run.scratch / FOLDER).is_dir():
        shutil.move(run.scratch / FOLDER, run.out / FOLDER)


def read_items(folder: Path) -> list[Item]:
    """items.jsonl of a run, or nothing where another trainer wrote the dynamics."""
    path = folder / ITEMS
    return [Item(**row) for row in read_jsonl(path)] if path.is_file() else []


class SolutionDynamics(TrainerCallback):
    """The dynamics of fine-tuning: p is the geometric mean probability of a solution's tokens, in evaluation mode.

    There are no classes here, so p is written as logits [0, log(p / (1 - p))] with gold 1, and an epoch counts as right
    where p is above one half.
    """

    def __init__(self, run: StageRun, tokenizer: Any, rows: Sequence[Mapping[str, str]], guids: Sequence[str]) -> None:
        self.run, self.tokenizer, self.rows, self.guids = run, tokenizer, rows, guids

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        means = mean_logprobs(model, self.tokenizer, self.rows, args.per_device_train_batch_size)
        if state.is_world_process_zero:
            probability = torch.tensor(means).exp().clamp(1e-9, 1 - 1e-9)
            rows = ([0.0, value] for value in torch.logit(probability).tolist())
            epoch = max(0, math.ceil(round(state.epoch or 0, 6)) - 1)  # a last epoch that is cut short counts too
            write_epoch(self.run.scratch / FOLDER, epoch, self.guids, rows, [1] * len(self.guids))


@torch.inference_mode()
def mean_logprobs(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, str]], batch_size: int = 32) -> list[float]:
    """`completion_logprobs` of any number of rows, in evaluation mode; the model's mode is put back afterwards."""
    training = model.training
    model.eval()
    try:
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        return [float(mean) for part in parts for mean in completion_logprobs(model, tokenizer, part)]
    finally:
        model.train(training)


def completion_logprobs(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, str]]) -> list[torch.Tensor]:
    """Mean log probability of the tokens of each row's `completion` and of EOS, given its `prompt`, as scalars."""
    encoded = encode_rows(tokenizer, rows)
    width = max(len(head) + len(tail) for head, tail in encoded)
    ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.bool)
    for line, (head, tail) in enumerate(encoded):
        ids_BT[line, : len(head) + len(tail)] = torch.tensor(head + tail)
        mask_BT[line, len(head) : len(head) + len(tail)] = True
    device = next(model.parameters()).device
    ids_BT, kept_BT = ids_BT.to(device), mask_BT[:, 1:].to(device)
    logits_BTV = model(input_ids=ids_BT).logits[:, :-1].float()  # padded on the right: causal attention sees none
    chosen_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)
    return list(((chosen_BT * kept_BT).sum(1) / kept_BT.sum(1)).unbind())
