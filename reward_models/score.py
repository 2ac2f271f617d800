"""Scoring: all steps of a solution in one forward pass, many solutions in batches of equal length.

scorer = Scorer.from_pretrained("runs/prm")
scorer.score("What is 2 + 3?", [["2 + 3 = 5", "# Answer\\n\\n5"]])[0].steps     # [0.98, 0.97]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from reward_models.aggregate import aggregate
from reward_models.contract import StepContract
from reward_models.encode import OVERLONG, Encoded, OverlongError, encode, shorten
from reward_models.forward import read_logits, read_prefix
from reward_models.model import is_causal, load_model
from reward_models.prefix import can_share, shared_groups
from reward_models.shared_prefixes import tree_logits

# Solutions read ahead by `score_stream`, so that batches can be sorted by length; memory stays flat.
WINDOW = 2048
# On a CPU batches stay this small however large the budget is, so that activations stay in its cache: a model of a
# million parameters reads 20,800 tokens a second with 1,024 in a batch and 12,200 with 16,384 (one AVX-512 core).
CPU_TOKENS = 1024
TREE_TOKENS = 2048  # in one tree of solutions: its attention mask is of their square
# glibc hands large blocks back to the system when they are freed, and every batch would have its activations mapped and
# cleared anew, a sixth of the time of a small model. It stops doing so for blocks up to the largest of this kind that
# it has seen freed (32 MiB at most), and then keeps up to twice that size.
LARGEST_BLOCK = 31 * 2**20

Item = tuple[str, Sequence[str]] | tuple[str, Sequence[str], Any]


@dataclass
class StepScores:
    """Scores of one solution. A skipped one has no steps, the score NaN, and the reason in `skipped`."""

    steps: list[float] = field(default_factory=list)  # (S,) probabilities that a step (or the outcome so far) is right
    score: float = math.nan  # the contract's aggregation of `steps`
    logits: list[float] = field(default_factory=list)  # (S,) before the sigmoid
    skipped: str = ""
    tokens: int = 0  # read for this solution, problem included

    def again(self, name: str, other: str) -> StepScores:
        """A copy for item `other`, whose text is that of item `name`."""
        return replace(
            self, steps=[*self.steps], logits=[*self.logits], skipped=self.skipped.replace(f"{name}:", f"{other}:", 1)
        )


class BrokenModelError(ValueError):
    """The model itself is at fault, not what it was asked."""


class Scorer:
    """A reward model in memory. `model` may still be training; it is put in evaluation mode for each call."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        contract: StepContract,
        *,
        max_tokens_per_batch: int = 16384,
        max_length: int | None = None,
        overlong: str = "error",
        prefix_reuse: bool = True,
        share_prefixes: bool = False,
    ) -> None:
        """`max_tokens_per_batch` counts padding; `max_length` is the limit of one solution in tokens (default: the
        model's). `overlong` says what happens beyond it: "error", "truncate_left" (cut the problem) or "skip".
        `prefix_reuse` reads a long problem once for all its solutions (causal models only). `share_prefixes` reads
        the steps that solutions begin with once, too, as people's labels of several continuations have them; whether
        a model can is `shared_prefixes.reads_trees`."""
        if overlong not in OVERLONG:
            raise ValueError(f"overlong {overlong!r} is not known; choose one of {', '.join(OVERLONG)}")
        if max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch is {max_tokens_per_batch}; it must be at least 1")
        limits = [max_length, getattr(model.config, "max_position_embeddings", None)]
        self.model, self.tokenizer, self.contract = model, tokenizer, contract
        self.max_tokens_per_batch, self.overlong = max_tokens_per_batch, overlong
        self.max_length = min((limit for limit in limits if limit), default=None)
        self._causal = is_causal(model)
        self.prefix_reuse = prefix_reuse and self._causal and can_share(model.config)
        self.share_prefixes = share_prefixes
        self._special = frozenset(tokenizer.all_special_ids)
        if model.device.type == "cpu":
            torch.empty(LARGEST_BLOCK, dtype=torch.uint8)  # freed at once

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_tokens_per_batch: int = 16384,
        **options: Any,
    ) -> Scorer:
        """Load a checkpoint of this package. `options` are those of the constructor."""
        model, tokenizer, contract = load_model(path, device, dtype)
        return cls(model, tokenizer, contract, max_tokens_per_batch=max_tokens_per_batch, **options)

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[StepScores]:
        """Scores of several solutions, each a list of step texts, of one problem; in the order given."""
        return list(self.score_stream((problem, steps) for steps in solutions))

    def score_texts(self, problems: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[StepScores]:
        """Scores of (problem, steps) pairs given as two lists, as a training loop has them; in the order given."""
        return list(self.score_stream(zip(problems, solutions, strict=True)))

    def score_stream(
        self,
        items: Iterable[Item],
        window: int = WINDOW,
        overlong: str | None = None,
        on_scored: Callable[[int], None] | None = None,
    ) -> Iterator[StepScores]:
        """Scores in input order, reading `window` items ahead; `overlong` overrules the scorer's own policy.

        An item is (problem, steps) or (problem, steps, id); errors name the id, or else the position in the stream.
        `on_scored` gets the number of items done after each batch, long before a window of scores is returned.

        Raises:
            OverlongError: a solution beyond the limit, with the policy "error".
            ValueError: a solution without steps.
            BrokenModelError: a model that returns NaN.
        """
        iterator, seen = iter(items), 0
        while chunk := list(islice(iterator, window)):
            names = [f"item {item[2] if len(item) > 2 else seen + place}" for place, item in enumerate(chunk)]
            seen += len(chunk)
            yield from self._score_chunk(chunk, names, overlong or self.overlong, on_scored or (lambda count: None))

    def _score_chunk(
        self, chunk: Sequence[Item], names: Sequence[str], overlong: str, on_scored: Callable[[int], None]
    ) -> list[StepScores]:
        """Samples of one problem repeat each other, easy ones most: each text is scored once."""
        first: dict[tuple[str, tuple[str, ...]], int] = {}
        same = [first.setdefault((item[0], tuple(item[1])), place) for place, item in enumerate(chunk)]
        different = list(first.values())
        scored = self._score_different(
            [chunk[place] for place in different], [names[place] for place in different], overlong, on_scored
        )
        on_scored(len(chunk) - len(different))
        by_place = dict(zip(different, scored, strict=True))
        return [
            by_place[place] if place == original else by_place[original].again(names[original], names[place])
            for place, original in enumerate(same)
        ]

    def _score_different(
        self, chunk: Sequence[Item], names: Sequence[str], overlong: str, on_scored: Callable[[int], None]
    ) -> list[StepScores]:
        rows = encode(self.tokenizer, self.contract, [item[0] for item in chunk], [item[1] for item in chunk])
        if self._causal:  # what follows the last scoring position changes nothing
            rows = [replace(row, ids=row.ids[: row.positions[-1] + 1]) for row in rows]
        results = [StepScores() for _ in rows]
        ready: list[tuple[int, Encoded]] = []
        for place, row in enumerate(rows):
            try:
                ready.append((place, self._fit(row, names[place], overlong)))
            except OverlongError as error:
                if overlong != "skip":
                    raise
                results[place].skipped = str(error)
        on_scored(len(rows) - len(ready))
        if self.share_prefixes:
            ids, positions = [row.ids for _, row in ready], [row.positions for _, row in ready]
            logits_R = tree_logits(self.model, ids, positions, min(TREE_TOKENS, self.max_tokens_per_batch), on_scored)
            for (place, row), logits_S in zip(ready, logits_R, strict=True):
                results[place] = self._result(row, logits_S, names[place])
            return results
        ready.sort(key=lambda pair: len(pair[1].ids), reverse=True)
        groups = [(0, ready)]
        if self.prefix_reuse:
            groups = shared_groups(ready, [item[0] for item in chunk])
        for shared, group in groups:
            prefix = self._prefix(group[0][1], shared) if shared else None
            for batch in self._batches(group, shared):
                logits = self._forward([row for _, row in batch], shared, prefix)
                for (place, row), logits_S in zip(batch, logits, strict=True):
                    results[place] = self._result(row, logits_S, names[place])
                on_scored(len(batch))
        return results

    def _fit(self, row: Encoded, name: str, overlong: str) -> Encoded:
        if self.max_length is None or len(row.ids) <= self.max_length:
            return row
        if overlong == "truncate_left":
            return shorten(row, self.max_length, self._special, name)
        raise OverlongError(
            f"{name}: {len(row.ids)} tokens, the limit is {self.max_length}; "
            "set overlong to 'truncate_left' or 'skip', or raise max_length"
        )

    def _batches(self, rows: Sequence[tuple[int, Encoded]], shared: int) -> Iterator[list[tuple[int, Encoded]]]:
        """Rows come longest first, so a batch's width is that of its first row.

        Shared tokens count for memory, since each row holds their keys and values, and not for the cache of a CPU.
        """
        start = 0
        while start < len(rows):
            width = len(rows[start][1].ids)
            count = self.max_tokens_per_batch // width
            if self.model.device.type == "cpu":
                count = min(count, round(CPU_TOKENS / (width - shared)))
            yield list(rows[start : start + max(1, count)])
            start += max(1, count)

    @torch.inference_mode()
    def _prefix(self, row: Encoded, shared: int) -> DynamicCache:
        return read_prefix(self.model, torch.tensor([row.ids[:shared]]))

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Encoded], shared: int, prefix: DynamicCache | None) -> list[list[float]]:
        """Logits at the scoring positions of each row; the first `shared` tokens, read as `prefix`, are common."""
        width = max(len(row.ids) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids_BT = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows])
        mask_BT = None
        if not self._causal:
            mask_BT = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
        line_R = torch.tensor([index for index, row in enumerate(rows) for _ in row.positions])
        place_R = torch.tensor([position for row in rows for position in row.positions])
        flat = iter(read_logits(self.model, ids_BT, mask_BT, line_R, place_R, shared, prefix).tolist())
        return [list(islice(flat, len(row.positions))) for row in rows]

    def _result(self, row: Encoded, logits_S: list[float], name: str) -> StepScores:
        if any(math.isnan(logit) for logit in logits_S):
            raise BrokenModelError(
                f"{name}: the model returned NaN; its weights or the data type {self.model.dtype} are broken"
            )
        steps = [sigmoid(logit) for logit in logits_S]
        return StepScores(steps, aggregate(steps, self.contract.aggregation), logits_S, tokens=len(row.ids))


def sigmoid(logit: float) -> float:
    """Logistic function that neither overflows nor leaves [0, 1]."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
