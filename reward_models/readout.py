"""Where in a token sequence the scores of steps are read. Pure: text and character offsets in, positions out.

Positions come from character offsets, never from token strings, so they hold for any fast tokenizer: byte-level BPE
that joins "." and "\\n\\n" into one token, SentencePiece with its invisible space, WordPiece that drops
blanks altogether.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_models import step_text
from reward_models.contract import StepContract
from reward_models.kinds import kind_of

Span = tuple[int, int]


def compose(contract: StepContract, problem: str, steps: Sequence[str]) -> tuple[str, list[Span]]:
    """The text a model reads, and for each step the characters `[start, end)` whose last token carries its score.

    With readout "marker" the span is that of the marker behind the step, with "separator" it holds one character of
    the separator.
    """
    if not steps:
        raise ValueError("a solution has no step; pass at least one (it may be empty text)")
    parts = [contract.prompt(problem)]
    position, spans = len(parts[0]), []
    last = len(steps) - 1
    for index, step in enumerate(steps):
        parts.append(step + contract.marker)
        end = position + len(parts[-1])
        beyond = 1 if contract.readout == "separator" and index < last else 0
        spans.append((end - len(contract.marker) if contract.marker else position, end + beyond))
        if index < last:
            parts.append(contract.separator)
            end += len(contract.separator)
        position = end
    return "".join(parts), spans


def split_steps(contract: StepContract, text: str) -> list[str]:
    """Steps of a solution text by the contract's separator and answer mark (see `step_text.split_steps`)."""
    return step_text.split_steps(text, contract.separator, contract.answer_mark)


def split_documents(contract: StepContract, texts: Sequence[str]) -> list[list[str]]:
    """Steps of each solution text, after newlines of other systems have become "\\n".

    Raises:
        ValueError: a text of three lines or more without the separator, named by position: its steps are joined by
            something else, and a process model would silently score it as one step.
    """
    texts = [step_text.normalise_newlines(text) for text in texts]
    for place, text in enumerate(texts):
        if is_unsplit(contract, text):
            raise ValueError(
                f"document {place} has several lines, but none holds the step separator {contract.separator!r} of this "
                "model; join its steps by it (a text that really is one step can be scored with Scorer.score)"
            )
    return [split_steps(contract, text) for text in texts]


def is_unsplit(contract: StepContract, text: str) -> bool:
    """Whether a model that scores steps would take a text of several lines for one step."""
    return kind_of(contract.kind).steps and step_text.is_unsplit(text, contract.separator)


def step_ends(offsets_T: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Token index at which each step is read, shape (S,), from token character offsets, shape (T, 2).

    That token is the last one that begins before the step ends. Tokens without text (BOS, EOS, padding: start == end)
    are skipped. An empty step has no token of its own: it is scored as what it is, nothing added, at the token
    before it.

    Raises:
        ValueError: no token lies before the end of a step (its text was truncated away or normalised to nothing).
    """
    positions, token, read = [], 0, -1
    for _, end in spans:  # ends never decrease, so one pass over the tokens serves all steps
        while token < len(offsets_T):
            start, stop = offsets_T[token]
            if start < stop:
                if start >= end:
                    break
                read = token
            token += 1
        if read < 0:
            raise ValueError(f"no token before character {end}, where a step ends; is the text longer than the limit?")
        positions.append(read)
    return positions


def owners(offsets_T: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """For each token the index of the step it belongs to, -1 for the prompt and for tokens without text, shape (T,).

    A step owns the separator behind it, as in the paper's training on every token of a step. A token that straddles
    two steps belongs to the later one.
    """
    starts = [start for start, _ in spans]
    owner_T, step = [], -1
    for start, stop in offsets_T:
        if start == stop:
            owner_T.append(-1)
            continue
        while step + 1 < len(starts) and starts[step + 1] < stop:
            step += 1
        owner_T.append(step)
    return owner_T
