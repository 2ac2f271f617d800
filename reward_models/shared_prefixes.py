"""Rows that begin alike read as one tree of tokens: what several share is computed once.

Step labels of people come so: several continuations of the same steps (PRM800K), and every one of them is a row that
repeats the problem and all steps before it. The rows of a batch are merged into one row of N tokens; a mask lets each
token see those before it in its own rows, at the position that it has there. Labels of a token that several rows hold
are averaged by weight and their weights added. Binary cross-entropy is linear in its label, so loss and gradient are
those of the rows read apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from reward_models.forward import evaluating
from reward_models.prefix import can_share

TOLERANCE = {torch.float32: 1e-3}  # relative difference of hidden states; 0.05 in half precision


@dataclass(frozen=True)
class TokenTree:
    """N distinct tokens of several rows; the parent of a first token is -1, and parents come before their children."""

    ids: NDArray[np.int64]  # (N,)
    parents: NDArray[np.int64]  # (N,)
    positions: NDArray[np.int64]  # (N,), of a token in its rows
    nodes: list[NDArray[np.int64]]  # for each row the place (T,) of its tokens among the N

    def seen(self) -> NDArray[np.bool_]:
        """Whether a token sees another, (N, N): itself and those before it in its rows."""
        seen_NN = np.eye(len(self.ids), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen_NN[node] |= seen_NN[parent]
        return seen_NN

    def inputs(self) -> dict[str, torch.Tensor]:
        """`input_ids` and `position_ids` (1, N), and a boolean `attention_mask` (1, 1, N, N)."""
        return {
            "input_ids": torch.from_numpy(self.ids)[None],
            "position_ids": torch.from_numpy(self.positions)[None],
            "attention_mask": torch.from_numpy(self.seen())[None, None],
        }


def token_tree(rows: Sequence[Sequence[int] | NDArray[Any]]) -> TokenTree:
    """Merge rows of token ids wherever they begin alike."""
    ids: list[int] = []
    parents: list[int] = []
    positions: list[int] = []
    children: dict[tuple[int, int], int] = {}
    nodes = []
    for row in rows:
        node, path = -1, []
        for position, token in enumerate(np.asarray(row).tolist()):
            child = children.setdefault((node, token), len(ids))
            if child == len(ids):
                ids.append(token)
                parents.append(node)
                positions.append(position)
            node = child
            path.append(node)
        nodes.append(np.array(path, np.int64))
    return TokenTree(np.array(ids, np.int64), np.array(parents, np.int64), np.array(positions, np.int64), nodes)


def merged(
    rows: Sequence[tuple[NDArray[np.int32], NDArray[np.float32], float]], ignored: float
) -> dict[str, torch.Tensor]:
    """One batch (1, N) of rows of ids (T,), labels (T,) and a weight: `TokenTree.inputs`, `labels` and `weights`."""
    tree = token_tree([ids_T for ids_T, _, _ in rows])
    weights_N = np.zeros(len(tree.ids))
    sums_N = np.zeros(len(tree.ids))
    for nodes, (_, labels_T, weight) in zip(tree.nodes, rows, strict=True):
        trained = labels_T != ignored
        weights_N[nodes[trained]] += weight
        sums_N[nodes[trained]] += weight * labels_T[trained]
    labels_N = np.where(weights_N > 0, sums_N / np.maximum(weights_N, np.finfo(float).tiny), ignored)
    return tree.inputs() | {
        "labels": torch.from_numpy(labels_N.astype(np.float32))[None],
        "weights": torch.from_numpy(weights_N.astype(np.float32))[None],
    }


class PrefixSampler(Sampler[int]):
    """Rows in their alphabetical order, cut into micro-batches whose order is random, a new one each epoch.

    So rows that share most stand in one micro-batch. A pure function of seed and epoch, so runs can resume.
    """

    def __init__(
        self, rows: Sequence[NDArray[np.int32]], micro_batch: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        order = alphabetical(rows)
        self.batches = [order[start : start + micro_batch] for start in range(0, len(order), micro_batch)]
        self.rows, self.seed, self.epoch = len(rows), seed, epoch
        #: tokens of an epoch, each that a micro-batch shares counted once
        self.tokens = sum(len(token_tree([rows[index] for index in batch]).ids) for batch in self.batches)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        full = [batch for batch in self.batches if len(batch) == len(self.batches[0])]
        places = np.random.default_rng([self.seed, self.epoch()]).permutation(len(full))
        rest = self.batches[len(full) :]  # a short micro-batch stays last, or all after it would be cut elsewhere
        return iter([index for batch in [*(full[place] for place in places), *rest] for index in batch])


def alphabetical(rows: Sequence[Sequence[int] | NDArray[Any]]) -> list[int]:
    """Row numbers in the order of their token ids: rows that share most stand together."""
    return sorted(range(len(rows)), key=lambda index: np.asarray(rows[index]).astype(">i4").tobytes())


@torch.inference_mode()
def tree_logits(
    model: Any,
    rows: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    max_tokens: int,
    on_read: Callable[[int], None],
) -> list[list[float]]:
    """Logits (R,) of a reward model at the given positions of each row (T,), rows merged into trees of `max_tokens`.

    The attention mask grows with the square of `max_tokens`; a row that has more is a tree of its own. The caller has
    asked `reads_trees`.
    """
    found: list[Any] = [None] * len(rows)
    for batch in _cut(rows, max_tokens):
        tree = token_tree([rows[index] for index in batch])
        with evaluating(model):
            inputs = {name: tensor.to(model.device) for name, tensor in tree.inputs().items()}
            logits_N = model(**inputs, use_cache=False).logits[0, :, 0].float().cpu().numpy()
        for index, nodes_T in zip(batch, tree.nodes, strict=True):
            found[index] = logits_N[nodes_T[list(positions[index])]].tolist()
        on_read(len(batch))
    return found


def _cut(rows: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
    """Row numbers of each tree. A row adds what it does not begin with like the row before it in the alphabet."""
    batch: list[int] = []
    size, before = 0, np.empty(0, np.int64)
    for index in alphabetical(rows):
        row = np.asarray(rows[index])
        same = before[: len(row)] == row[: len(before)]
        own = len(row) - int(same.argmin() if not same.all() else len(same))
        if batch and size + own > max_tokens:
            yield batch
            batch, size, own = [], 0, len(row)
        batch.append(index)
        size, before = size + own, row
    if batch:
        yield batch


@torch.inference_mode()
def reads_trees(model: Any) -> bool:
    """Whether a model reads two rows merged as it reads each alone: it must follow the mask and the positions."""
    if not can_share(model.config):
        return False
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside adapters
    first_T = np.arange(1, 9) % model.config.vocab_size
    second_T = np.concatenate([first_T[:4], first_T[:4]])
    tree = token_tree([first_T, second_T])
    given = {name: tensor.to(model.device) for name, tensor in tree.inputs().items()}
    with evaluating(model):
        try:
            together_ND = inner.base_model(**given, use_cache=False).last_hidden_state[0].float()
            apart = [
                inner.base_model(input_ids=torch.from_numpy(row_T)[None].to(model.device)).last_hidden_state[0].float()
                for row_T in (first_T, second_T)
            ]
        except (TypeError, ValueError):  # an architecture that takes no position_ids, or no mask of this form
            return False
    allowed = TOLERANCE.get(next(inner.parameters()).dtype, 0.05)
    return all(
        bool((together_ND[nodes] - alone_TD).norm() <= allowed * alone_TD.norm())
        for nodes, alone_TD in zip(tree.nodes, apart, strict=True)
    )
