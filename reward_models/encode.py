"""Solutions to token ids with read-out positions, a batch of texts in one call of the fast tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reward_models.contract import StepContract
from reward_models.readout import compose, owners, step_ends

OVERLONG = ("error", "truncate_left", "skip")


@dataclass(frozen=True)
class Encoded:
    """One solution as the model reads it."""

    ids: list[int]  # (T,)
    positions: list[int]  # (S,) token at which each step is read
    owners: list[int] | None = None  # (T,) step of each token, -1 for the prompt; on request
    start: int = 0  # first token that holds text of the solution


class OverlongError(ValueError):
    """A solution has more tokens than the limit."""


def encode(
    tokenizer: Any,
    contract: StepContract,
    problems: Sequence[str],
    solutions: Sequence[Sequence[str]],
    with_owners: bool = False,
) -> list[Encoded]:
    """Encode each (problem, steps); special tokens are those the tokenizer adds itself.

    Raises:
        ValueError: the tokenizer is not a fast one, or a step has no token (see `readout.step_ends`).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so it knows no character offsets; "
            "load it with AutoTokenizer.from_pretrained (which converts SentencePiece files)"
        )
    if not problems:
        return []
    if contract.joining == "pieces":
        return _encode_pieces(tokenizer, contract, problems, solutions)
    composed = [compose(contract, problem, steps) for problem, steps in zip(problems, solutions, strict=True)]
    batch = tokenizer(
        [text for text, _ in composed],
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [
        Encoded(
            ids,
            step_ends(offsets, spans),
            owners(offsets, spans) if with_owners else None,
            _first_token(offsets, len(contract.prompt(problem))),
        )
        for ids, offsets, (_, spans), problem in zip(
            batch["input_ids"], batch["offset_mapping"], composed, problems, strict=True
        )
    ]


def _encode_pieces(
    tokenizer: Any, contract: StepContract, problems: Sequence[str], solutions: Sequence[Sequence[str]]
) -> list[Encoded]:
    """BOS, problem, and for each step its tokens and the marker's: TRL's stepwise tokenisation. No owners."""
    pieces = [contract.marker]
    for problem, steps in zip(problems, solutions, strict=True):
        pieces += [contract.prompt(problem), *steps]
    tokens = iter(tokenizer(pieces, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
    marker = next(tokens)
    if not marker:
        raise ValueError(f"marker {contract.marker!r} has no token in this tokenizer; scores could not be read")
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows = []
    for steps in solutions:
        if not steps:
            raise ValueError("a solution has no step; pass at least one (it may be empty text)")
        ids = bos + next(tokens)
        start, positions = len(ids), []
        for _ in steps:
            ids = ids + next(tokens) + marker
            positions.append(len(ids) - 1)
        rows.append(Encoded(ids, positions, start=start))
    return rows


def _first_token(offsets_T: Sequence[tuple[int, int]], character: int) -> int:
    return next((token for token, (_, stop) in enumerate(offsets_T) if stop > character), len(offsets_T))


def shorten(encoded: Encoded, limit: int, special_ids: frozenset[int], name: str) -> Encoded:
    """Cut tokens from the beginning, behind leading special tokens, so that `limit` tokens remain.

    Only the problem is cut: steps stay whole, because a score of a step that was not read would be an invention.

    Raises:
        OverlongError: the steps alone are longer than the limit.
    """
    keep = 0
    while keep < len(encoded.ids) and encoded.ids[keep] in special_ids:
        keep += 1
    drop = len(encoded.ids) - limit
    if encoded.start - drop < keep:
        raise OverlongError(f"{name}: the solution alone is longer than the limit of {limit} tokens; it cannot be cut")
    ids = encoded.ids[:keep] + encoded.ids[keep + drop :]
    own = None if encoded.owners is None else encoded.owners[:keep] + encoded.owners[keep + drop :]
    return Encoded(ids, [position - drop for position in encoded.positions], own, encoded.start - drop)
