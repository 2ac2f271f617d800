"""Tokenised training rows, their order, and their batches."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from reward_models.contract import StepContract
from reward_models.encode import encode
from reward_models.kinds import IGNORED, kind_of
from reward_models.lengths import losses
from reward_models.readout import split_steps
from reward_models.records import Stepwise
from reward_models.shared_prefixes import merged
from reward_models.targets import mix, record_weight, step_targets, token_targets, usable

log = logging.getLogger(__name__)
CHUNK = 8192  # records a tokenizer call: offsets of a million records at once would fill the memory
MEGABATCH = 50  # batches among which rows are sorted by length, as in the Hugging Face length sampler


class TokenRows(Dataset):
    """Rows of (ids (T,), labels (T,), weight), held as compact arrays; `sources` are indices of their records."""

    def __init__(
        self,
        ids: list[NDArray[np.int32]],
        labels: list[NDArray[np.float32]],
        weights: list[float],
        pad_id: int,
        sources: list[int],
    ) -> None:
        self.ids, self.labels, self.weights, self.pad_id, self.sources = ids, labels, weights, pad_id, sources
        self.lengths = [len(row) for row in ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> int:
        return index  # the collator reads the arrays itself; a dict for each row would cost more than the batch

    def collate(self, indices: Sequence[int], causal: bool) -> dict[str, torch.Tensor]:
        """Batch of `input_ids`, `labels`, `weights` (B, T), padded on the right; `attention_mask` unless causal."""
        width = max(self.lengths[index] for index in indices)
        shape = (len(indices), width)
        ids_BT = np.full(shape, self.pad_id, np.int64)
        labels_BT = np.full(shape, IGNORED, np.float32)
        weights_BT = np.zeros(shape, np.float32)
        mask_BT = np.zeros(shape, np.int64)
        for line, index in enumerate(indices):
            length = self.lengths[index]
            ids_BT[line, :length] = self.ids[index]
            labels_BT[line, :length] = self.labels[index]
            mask_BT[line, :length] = 1
            weights_BT[line] = np.where(labels_BT[line] == IGNORED, 0, self.weights[index])
        batch = {"input_ids": ids_BT, "labels": labels_BT, "weights": weights_BT}
        if not causal:
            batch["attention_mask"] = mask_BT
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def pack(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The texts of a batch in one row (1, N) without padding; `position_ids` start at 0 with each text."""
        ids_N = np.concatenate([self.ids[index] for index in indices]).astype(np.int64)
        labels_N = np.concatenate([self.labels[index] for index in indices])
        spread_N = np.concatenate([np.full(self.lengths[index], self.weights[index], np.float32) for index in indices])
        batch = {
            "input_ids": ids_N,
            "position_ids": np.concatenate([np.arange(self.lengths[index]) for index in indices]),
            "labels": labels_N,
            "weights": np.where(labels_N == IGNORED, np.float32(0), spread_N),
        }
        return {name: torch.from_numpy(values)[None] for name, values in batch.items()}

    def merge(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The texts of a batch in one row (1, N), each token that several begin with once."""
        rows = [(self.ids[index], self.labels[index], self.weights[index]) for index in indices]
        return merged(rows, IGNORED)


def build_rows(
    records: Sequence[Stepwise],
    tokenizer: Any,
    contract: StepContract,
    *,
    loss_on: str,
    max_length: int,
    orm_share: float | None = None,
    seed: int = 0,
) -> tuple[TokenRows, dict[str, int]]:
    """Rows for training and the counts of records used, without a label for this kind, thinned out, and too long.

    `split_otherwise` counts records whose text, cut at the contract's separator, gives other steps than the record's:
    with a separator inside steps, a reader of whole texts would score other steps than were trained.

    Raises:
        ValueError: nothing is left to train on.
    """
    labelled = [index for index, record in enumerate(records) if usable(record, contract.kind)]
    kept = labelled
    kind = kind_of(contract.kind)
    if kind.outcomes and kind.steps:
        kept = [labelled[place] for place in mix([records[index] for index in labelled], orm_share, seed)]
    chosen = [records[index] for index in kept]
    ids, labels, weights, sources = [], [], [], []
    for start in range(0, len(chosen), CHUNK):
        part = chosen[start : start + CHUNK]
        encoded = encode(
            tokenizer,
            contract,
            [record.problem for record in part],
            [record.steps for record in part],
            with_owners=loss_on == "every_token",
        )
        for source, record, row in zip(kept[start : start + CHUNK], part, encoded, strict=True):
            if len(row.ids) <= max_length:
                sources.append(source)
                ids.append(np.array(row.ids, np.int32))
                labels.append(token_targets(record, row, contract.kind, loss_on))
                weights.append(record_weight(record))
    counts = {
        "records": len(records),
        "used": len(ids),
        "without_label": len(records) - len(labelled),
        "thinned": len(labelled) - len(chosen),
        "too_long": len(chosen) - len(ids),
        "split_otherwise": sum(_splits_otherwise(record, contract) for record in chosen),
        "trained_tokens": int(sum((row != IGNORED).sum() for row in labels)),
    }
    if not counts["trained_tokens"] or not sum(weights):
        raise ValueError(f"no record trains a model of kind {contract.kind!r}: {counts}; check labels and max_length")
    return TokenRows(ids, labels, weights, tokenizer.pad_token_id, sources), counts


def check_material(
    records: Sequence[Stepwise], sources: Sequence[int], counts: Mapping[str, int], kind: str, max_length: int
) -> None:
    """What cannot be learnt from is refused before a model is loaded. `sources` are the records that are used.

    Raises:
        ValueError: all labels are the same, or most records are longer than the limit.
    """
    classes: Counter[float] = Counter()
    for index in sources:
        targets = step_targets(records[index], kind)
        classes.update(targets[-1:] if kind_of(kind).is_whole(records[index]) else targets)
    del classes[IGNORED]
    given = counts["used"] + counts["too_long"]
    if found := losses(given, counts["too_long"], 0, "records (too_long)", f"max_length {max_length}"):
        log.warning("%s", found)
    if len(classes) == 1:
        ((label, count),) = classes.items()
        other = "wrong" if label else "right"
        raise ValueError(
            f"all {count} labels are {label:g}; nothing to tell apart. Give {other} "
            f"{'steps' if kind_of(kind).steps else 'solutions'} too"
        )


def _splits_otherwise(record: Stepwise, contract: StepContract) -> bool:
    return bool(contract.separator) and split_steps(contract, contract.separator.join(record.steps)) != record.steps


class LengthSampler(Sampler[int]):
    """Random order in which neighbours have similar length; a pure function of seed and epoch, so runs can resume."""

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int], grouped: bool = True
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch, self.grouped = lengths, batch_size, seed, epoch, grouped

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch()])
        order = rng.permutation(len(self.lengths))
        if not self.grouped:
            return iter(order.tolist())
        lengths = np.asarray(self.lengths)
        mega = MEGABATCH * self.batch_size
        parts = [order[start : start + mega] for start in range(0, len(order), mega)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
        # whole batches change places, so that the rate schedule does not run from long to short; a rest stays last
        full = len(order) // self.batch_size
        shuffled = order[: full * self.batch_size].reshape(full, self.batch_size)[rng.permutation(full)].ravel()
        return iter([*shuffled.tolist(), *order[full * self.batch_size :].tolist()])


def optimiser_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Optimiser steps of a run; the last batch of an epoch may be short."""
    return max(1, math.ceil(math.ceil(rows / batch_size) * epochs))


def weight_total(batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Sum of token weights over the micro-batches of one optimiser step, a scalar."""
    return torch.stack([batch["weights"].sum() for batch in batches]).sum()
