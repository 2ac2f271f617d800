"""Solutions to token ids with scoring positions, a batch of texts in one call of the fast tokenizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reward_models.contract import StepContract
from reward_models.readout import compose, owners, step_ends
from reward_models.special_tokens import leading_ids

OVERLONG = ("error", "truncate_left", "skip")


@dataclass(frozen=True)
class Encoded:
    """One solution as the model reads it."""

    ids: list[int]  # (T,)
    positions: list[int]  # (S,) token at which each step is scored
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
    if contract.joining == "steps":
        return _encode_steps(tokenizer, contract, problems, solutions)
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
    leading = leading_ids(tokenizer)
    return [
        Encoded(
            ids,
            step_ends(offsets, spans),
            owners(offsets, spans) if with_owners else None,
            _first_token(offsets, len(contract.prompt(problem))),
        )
        for (ids, offsets), (_, spans), problem in zip(
            (_led_once(*row, leading) for row in zip(batch["input_ids"], batch["offset_mapping"], strict=True)),
            composed,
            problems,
            strict=True,
        )
    ]


def _led_once(
    ids: list[int], offsets: list[tuple[int, int]], leading: list[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Without the tokenizer's leading tokens where the text spells them itself, as chat templates do."""
    count = len(leading)
    twice = count and ids[count : 2 * count] == leading
    return (ids[count:], offsets[count:]) if twice else (ids, offsets)


def _encode_steps(
    tokenizer: Any, contract: StepContract, problems: Sequence[str], solutions: Sequence[Sequence[str]]
) -> list[Encoded]:
    """Problem, then each step with the separator after it, each with the tokens that it has wherever it stands.

    So the scoring token depends on the step's text alone, and no later step changes what a causal model has read.
    """
    prompts = {problem: contract.prompt(problem) for problem in problems}
    leading, heads = leading_ids(tokenizer), _inside(tokenizer, list(prompts.values()), "", _NEXT)
    head_of = {
        problem: ids if ids[: len(leading)] == leading else leading + ids
        for problem, (ids, _) in zip(prompts, heads, strict=True)
    }
    closed_of = _closed_steps(tokenizer, contract, list(dict.fromkeys(step for steps in solutions for step in steps)))
    rows = []
    for problem, steps in zip(problems, solutions, strict=True):
        if not steps:
            raise ValueError("a solution has no step; pass at least one (it may be empty text)")
        ids = list(head_of[problem])
        positions, owner_T = [], [-1] * len(ids)
        for index, step in enumerate(steps):
            own, place = closed_of[step]
            if not own and not ids:
                raise ValueError(f"step {step!r} has no token in this tokenizer, and none stands before it")
            positions.append(len(ids) + place if own else len(ids) - 1)
            ids += own
            owner_T += [index] * len(own)
        rows.append(Encoded(ids, positions, owner_T, start=len(head_of[problem])))
    return rows


def _closed_steps(tokenizer: Any, contract: StepContract, steps: list[str]) -> dict[str, tuple[list[int], int]]:
    """(ids, scoring position in them) of each step with its separator. One without text is scored at the separator."""
    separator = contract.separator
    encoded = _inside(tokenizer, [step + separator for step in steps], separator, _NEXT)
    found = {}
    for step, (ids, starts) in zip(steps, encoded, strict=True):
        end = len(step) + (contract.readout == "separator")
        place = bisect_left(starts, end) - 1  # the last token that begins before the step ends
        found[step] = ids, place if place >= 0 else len(ids) - 1
    return found


_NEXT = "A"  # how the next step may begin


def _inside(tokenizer: Any, texts: list[str], before: str, after: str) -> list[tuple[list[int], list[int]]]:
    """(ids, where each begins) of each text as it is tokenised between two others.

    SentencePiece begins a text with a blank of its own, and byte BPE of GPT-2 ends one with another token for a blank
    line than stands inside. Where a token holds characters of a neighbour as well, the text is tokenised alone.
    """
    found = []
    for text, (ids, spans) in zip(texts, _spans(tokenizer, [before + text + after for text in texts]), strict=True):
        left, right = len(before), len(before) + len(text)
        first, stop = _between(spans, left, right)
        if first < stop and (spans[first][0] < left or spans[stop - 1][1] > right):
            ((ids, spans),) = _spans(tokenizer, [text])
            left, first, stop = 0, 0, len(ids)
        found.append((ids[first:stop], [start - left for start, _ in spans[first:stop]]))
    return found


def _between(spans: Sequence[tuple[int, int]], left: int, right: int) -> tuple[int, int]:
    """First token, and one after the last, that hold characters from `left` to `right`."""
    first, stop = 0, len(spans)
    while first < stop and spans[first][1] <= left and left:
        first += 1
    while stop > first and spans[stop - 1][0] >= right:
        stop -= 1
    return first, stop


def _spans(tokenizer: Any, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """(ids, characters of each) of texts without special tokens of the tokenizer's own."""
    if not texts:
        return []
    batch = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return list(zip(batch["input_ids"], batch["offset_mapping"], strict=True))


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
