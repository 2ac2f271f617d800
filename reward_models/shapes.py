"""Four request shapes that existing clients speak, as pure functions: JSON in, items to score; scores in, JSON out.

| path | shape |
|---|---|
| /v1/rerank, /v2/rerank, /rerank with `documents` | Cohere, Jina, vLLM |
| /rerank with `texts` | Text Embeddings Inference |
| /score, /v1/score | vLLM |
| /get_reward | OpenRLHF remote reward model |

Every answer carries the scores of the steps in an extra field `step_scores`.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models.chat_markers import left_markers, unwrap_chat, unwrap_prompt, without_special
from reward_models.contract import PROBLEM_SLOT, StepContract
from reward_models.readout import is_unsplit, split_documents, split_steps
from reward_models.score import StepScores
from reward_models.step_text import normalise_newlines

Body = Mapping[str, Any]
Item = tuple[str, list[str]]
Answer = Callable[[Sequence[StepScores]], Any]


SCORE_FIELDS = (("queries", "documents"), ("data_1", "data_2"), ("text_1", "text_2"))  # vLLM's, newest first


class BadRequestError(ValueError):
    """A well-formed JSON body that asks for something impossible; answered with 422."""


@dataclass(frozen=True)
class Request:
    """What to score, and how to say the result."""

    items: list[Item]
    answer: Answer
    overlong: str | None = None  # what becomes of over-long items; None: as the server was told
    unsplit: int = 0  # texts of several lines that are scored as one step


def rerank(body: Body, contract: StepContract, model: str) -> Request:
    """Cohere, Jina, vLLM and, with `texts`, Text Embeddings Inference."""
    if "texts" in body:
        return _tei(body, contract)
    query, documents = _text(body, "query"), _documents(body, "documents")
    top = _top(body, len(documents))
    with_text = bool(body.get("return_documents", True))

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        results = []
        for index in _best_first(scores)[:top]:
            entry: dict[str, Any] = {"index": index, "relevance_score": _number(scores[index].score)}
            if with_text:
                entry["document"] = {"text": documents[index]}
            results.append({**entry, "step_scores": scores[index].steps})
        return {"id": _id("rerank"), "model": model, "results": results, "usage": _usage(scores)}

    return Request(_items([query] * len(documents), documents, contract), answer)


def _tei(body: Body, contract: StepContract) -> Request:
    query, texts = _text(body, "query"), _documents(body, "texts")
    raw, with_text = bool(body.get("raw_scores", False)), bool(body.get("return_text", False))
    # TEI can cut either end of a pair; here only the beginning of the problem goes, so that every step is read
    overlong = "truncate_left" if body.get("truncate", False) else None

    def answer(scores: Sequence[StepScores]) -> list[dict[str, Any]]:
        results = []
        for index in _best_first(scores):
            value = _logit(scores[index].score) if raw else scores[index].score
            entry: dict[str, Any] = {"index": index, "score": _number(value)}
            if with_text:
                entry["text"] = texts[index]
            results.append({**entry, "step_scores": scores[index].steps})
        return results

    return Request(_items([query] * len(texts), texts, contract), answer, overlong)


def score(body: Body, contract: StepContract, model: str) -> Request:
    """vLLM: `data_1` and `data_2`, `queries` and `documents`, or `text_1` and `text_2`; one to one or one to many."""
    names = next((pair for pair in SCORE_FIELDS if pair[0] in body), SCORE_FIELDS[0])
    left, right = (_listed(body, name) for name in names)
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise BadRequestError(f"{names[0]} has {len(left)} texts, {names[1]} has {len(right)}; give one, or as many")

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        data = [
            {"index": index, "object": "score", "score": _number(entry.score), "step_scores": entry.steps}
            for index, entry in enumerate(scores)
        ]
        return {
            "id": _id("score"),
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": data,
            "usage": _usage(scores),
        }

    return Request(_items(left, right, contract), answer)


def _items(queries: Sequence[str], documents: Sequence[str], contract: StepContract) -> list[Item]:
    try:
        steps = split_documents(contract, documents)
        return list(zip([normalise_newlines(query) for query in queries], steps, strict=True))
    except ValueError as error:
        raise BadRequestError(str(error)) from None


def get_reward(body: Body, contract: StepContract, special: Sequence[str]) -> Request:
    """OpenRLHF: `query` holds whole texts, prompt and solution; `prompts`, if sent, says where each solution begins.

    `special` are token texts (BOS, EOS, pad) that clients leave at the ends.
    """
    texts = _listed(body, "query")
    prompts = body.get("prompts") or [None] * len(texts)
    if not isinstance(prompts, list) or len(prompts) != len(texts):
        raise BadRequestError(f"prompts must be a list of {len(texts)} texts, one for each query")
    items = [
        _split_whole(_plain(text, special), prompt and _plain(str(prompt), special), contract, place)
        for place, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        rewards = [_number(entry.score) for entry in scores]
        logs = {"step_scores": [entry.steps for entry in scores]}
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}, **logs}

    # a refusal would end the training that asks; the server counts them
    unsplit = sum(len(steps) == 1 and is_unsplit(contract, steps[0]) for _, steps in items)
    return Request(items, answer, unsplit=unsplit)


def _split_whole(text: str, prompt: str | None, contract: StepContract, place: int) -> Item:
    try:
        problem, solution = _whole(text, prompt, contract)
    except ValueError as error:
        raise BadRequestError(f"query {place} {error}") from None
    for part in (problem, solution):
        if marker := left_markers(part):
            raise BadRequestError(
                f"query {place} has {marker!r} inside, so problem and solution cannot be told apart; send the problem "
                "as plain text in `prompts`, and the solution after it"
            )
    return problem, split_steps(contract, solution)


def _whole(text: str, prompt: str | None, contract: StepContract) -> tuple[str, str]:
    """(problem, solution) of a query: our template, a chat template, a policy's prompt, or what `prompt` says."""
    before, after = contract.template.split(PROBLEM_SLOT, 1)
    known = prompt and text.startswith(prompt)
    head = prompt if prompt and known else text  # where the problem is looked for
    cut = head.rfind(after) if known else head.find(after, len(before))
    if head.startswith(before) and after and cut >= len(before):
        problem, reply = head[len(before) : cut], head[cut + len(after) :]
    elif (talk := unwrap_chat(head)) is not None:
        problem, reply = _bare(talk.problem, before, after), talk.reply
    elif (parts := unwrap_prompt(head)) is not None:
        problem, reply = parts
    elif known:
        problem, reply = head, ""
    else:
        raise ValueError(f"does not have the form {contract.template!r}; send it so, or send `prompts` as well")
    return problem, text[len(head) :] if known else reply


def _bare(problem: str, before: str, after: str) -> str:
    """A problem without the policy's prompt around it: some trainers put one inside the user's message."""
    if problem.startswith(before) and problem.endswith(after.rstrip()) and after:
        return problem[len(before) : len(problem) - len(after.rstrip())]
    parts = unwrap_prompt(problem + "\n\n")
    return parts[0] if parts and not parts[1].strip() else problem


def _plain(text: str, special: Sequence[str]) -> str:
    return without_special(normalise_newlines(text), special)


def _best_first(scores: Sequence[StepScores]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index].score)


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequestError(f"{name!r} must be a text, found {type(value).__name__}")
    return _checked(value, name)


def _checked(value: str, name: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequestError(f"{name!r} holds half of a surrogate pair, which is no character") from None
    return value


def _listed(body: Body, name: str) -> list[str]:
    return _documents({name: [body[name]]}, name) if isinstance(body.get(name), str) else _documents(body, name)


def _documents(body: Body, name: str) -> list[str]:
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


def _top(body: Body, count: int) -> int:
    value = body.get("top_n")
    if value is None or value == 0:  # vLLM's default 0 means all
        return count
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequestError(f"'top_n' must be a whole number from 1, found {value!r}")
    return value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _logit(prob: float) -> float:
    clipped = min(max(prob, 1e-7), 1 - 1e-7)
    return math.log(clipped / (1 - clipped))


def _id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _usage(scores: Sequence[StepScores]) -> dict[str, int]:
    tokens = sum(entry.tokens for entry in scores)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
