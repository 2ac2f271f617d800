"""Where a completion ends: end tokens, stop strings, and the ids that the tokenizer does not know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

_NOTED = "generation_end_ids"  # attribute of a tokenizer, never saved with it


def end_tokens(tokenizer: Tokenizer, model: Any = None) -> frozenset[int]:
    """Ids of which any ends a completion: the tokenizer's and those of `generation_config`.

    Chat models name several (`<|im_end|>` and `<|endoftext|>`, or `<|eot_id|>`), and the tokenizer knows one of them.
    `model` may be left out where `note_end_tokens` has seen it.
    """
    ids = {int(tokenizer.eos_token_id)} | set(getattr(tokenizer, _NOTED, ()))
    if model is not None:
        ids |= set(_generation_ends(model))
    return frozenset(ids)


def note_end_tokens(tokenizer: Tokenizer, model: Any) -> None:
    """Remember the end tokens of a model's `generation_config` beside its tokenizer, which travels further."""
    setattr(tokenizer, _NOTED, tuple(sorted(_generation_ends(model))))


def _generation_ends(model: Any) -> Iterable[int]:
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if named is None:
        return ()
    return [int(one) for one in (named if isinstance(named, Iterable) else [named])]


def token_limit(tokenizer: Tokenizer) -> int:
    """One more than the highest id of a token. Embeddings are often padded beyond it (Qwen: 151,936 for 151,665), and
    what an id from there on stands for no tokenizer can say."""
    return max(tokenizer.get_vocab().values()) + 1


def cut_at_end(ids: Sequence[int], ends: frozenset[int]) -> int:
    """Number of tokens up to the first end token, which is included; all of them where there is none."""
    return next((place + 1 for place, one in enumerate(ids) if one in ends), len(ids))


def without_end(ids: Sequence[int], ends: frozenset[int]) -> Sequence[int]:
    """A completion's tokens without its end token."""
    return ids[:-1] if ids and ids[-1] in ends else ids


def cut_at_stop(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string, or None where it holds none."""
    places = [place for place in (text.find(one) for one in stop) if place >= 0]
    return text[: min(places)] if places else None


class StopStrings:
    """Tells, token by token, when a completion has come to hold a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        # a character takes at most four tokens, where each is one byte of it
        self.window = 4 * max(map(len, stop), default=0) + 4
        self.last = {one[-1] for one in stop}
        self.may_complete: dict[int, bool] = {}  # by token

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the last token of a completion completes a stop string."""
        newest = ids[-1]
        if newest not in self.may_complete:
            text = str(self.tokenizer.decode([newest]))
            # the end of a character's bytes shows as the replacement character
            self.may_complete[newest] = bool(self.last & set(text)) or "\ufffd" in text
        if not self.may_complete[newest]:
            return False
        return cut_at_stop(str(self.tokenizer.decode(list(ids[-self.window :]))), self.stop) is not None
