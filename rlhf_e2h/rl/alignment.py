"""Which token of a completion ends each step: from character offsets, for any tokenizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase as Tokenizer


class AlignmentError(ValueError):
    """Step ends cannot be located on the tokens of a completion; a reward would be lost."""


def step_tokens(
    tokenizer: Tokenizer, ids_rows: Sequence[Sequence[int]], texts: Sequence[str], ends_rows: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Index, in its completion, of the token that holds the last character of each step.

    Args:
        ids_rows: completion tokens without end of sequence; `texts[i]` is what they decode to.
        ends_rows: character offsets (exclusive) at which the steps of each text end. An empty step sits on the token
            before it, or on the first token.

    Raises:
        AlignmentError: the tokens do not decode to the text, or an end lies outside it; says for how many rows.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    located: list[list[int]] = []
    problems: list[str] = []
    for row, (ids, text, ends) in enumerate(zip(ids_rows, texts, ends_rows, strict=True)):
        outside = [end for end in ends if not 0 <= end <= len(text)]
        if outside:
            problems.append(f"row {row}: step end {outside[0]} lies outside its text of {len(text)} characters")
        elif tokenizer.is_fast and list(ids) == encoded["input_ids"][row]:
            # the sampled tokens are how the tokenizer itself would split the text, so its offsets are theirs
            starts = [start for start, _ in encoded["offset_mapping"][row]]
            located.append([max(bisect_left(starts, end) - 1, 0) for end in ends])
        elif _covered(tokenizer, ids, text) != len(text):
            problems.append(f"row {row}: its {len(ids)} tokens do not decode to {text[:80]!r}")
        else:
            located.append([_search(tokenizer, ids, text, end) for end in ends])
    if problems:
        raise AlignmentError(
            f"steps of {len(problems)} of {len(texts)} completions could not be located on their tokens; "
            f"{problems[0]}. Step ends must be offsets into the text exactly as the policy's tokenizer decodes it"
        )
    return located


def _covered(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> int:
    """Characters of `text` that these tokens spell; a character cut in the middle of its bytes does not count."""
    decoded = str(tokenizer.decode(list(ids), skip_special_tokens=False))
    same = (place for place, (a, b) in enumerate(zip(decoded, text, strict=False)) if a != b)
    return next(same, min(len(decoded), len(text)))


def _search(tokenizer: Tokenizer, ids: Sequence[int], text: str, end: int) -> int:
    """First token with which the decoded prefix reaches `end`. Bisection: a few decodes a step, not one a token."""
    low, high = 0, max(len(ids) - 1, 0)
    while low < high:
        middle = (low + high) // 2
        if _covered(tokenizer, ids[: middle + 1], text) >= end:
            high = middle
        else:
            low = middle + 1
    return low
