"""What a request asks for, how its fields are read, and the parts that answers share."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models.contract import StepContract
from reward_models.readout import split_documents
from reward_models.score import StepScores
from reward_models.step_text import normalise_newlines

Body = Mapping[str, Any]
Item = tuple[str, list[str]]
Answer = Callable[[Sequence[StepScores]], Any]


class BadRequestError(ValueError):
    """A well-formed JSON body that asks for something impossible; answered with 422."""


@dataclass(frozen=True)
class Request:
    """What to score, and how to say the result."""

    items: list[Item]
    answer: Answer
    overlong: str | None = None  # what becomes of over-long items; None: as the server was told
    unsplit: int = 0  # texts of several lines that are scored as one step


def pair_items(queries: Sequence[str], documents: Sequence[str], contract: StepContract) -> list[Item]:
    try:
        steps = split_documents(contract, documents)
        return list(zip([normalise_newlines(query) for query in queries], steps, strict=True))
    except ValueError as error:
        raise BadRequestError(str(error)) from None


def text_of(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequestError(f"{name!r} must be a text, found {type(value).__name__}")
    return _checked(value, name)


def _checked(value: str, name: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequestError(f"{name!r} holds half of a surrogate pair, which is not a character") from None
    return value


def texts_of(body: Body, name: str) -> list[str]:
    return documents_of({name: [body[name]]}, name) if isinstance(body.get(name), str) else documents_of(body, name)


def documents_of(body: Body, name: str) -> list[str]:
    value = body.get(name)
    if not isinstance(value, list) or not value:
        raise BadRequestError(f"{name!r} must be a list of at least one text, found {value!r:.60}")
    texts = []
    for place, entry in enumerate(value):
        text = entry.get("text") if isinstance(entry, dict) else entry  # Cohere v1 allows {"text": ...}
        if not isinstance(text, str):
            raise BadRequestError(f"{name}[{place}] must be a text, found {type(entry).__name__}")
        if not text.strip():
            raise BadRequestError(f"{name}[{place}] is empty; there is nothing to score")
        texts.append(_checked(text, f"{name}[{place}]"))
    return texts


def number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def logit(prob: float) -> float:
    clipped = min(max(prob, 1e-7), 1 - 1e-7)
    return math.log(clipped / (1 - clipped))


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def usage(scores: Sequence[StepScores]) -> dict[str, int]:
    tokens = sum(entry.tokens for entry in scores)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
