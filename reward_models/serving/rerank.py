"""Shapes that put documents in order: Cohere, Jina, vLLM, Infinity; with `texts`, Text Embeddings Inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reward_models.contract import StepContract
from reward_models.score import StepScores
from reward_models.serving.request import (
    BadRequestError,
    Body,
    Request,
    documents_of,
    logit,
    new_id,
    number,
    pair_items,
    text_of,
    usage,
)


def rerank(body: Body, contract: StepContract, model: str, plain: bool = False) -> Request:
    """Cohere, Jina, vLLM and, with `texts`, Text Embeddings Inference; `plain` returns documents as texts."""
    if "texts" in body:
        return _tei(body, contract)
    query, documents = text_of(body, "query"), documents_of(body, "documents")
    top = _top(body, len(documents))
    with_text = bool(body.get("return_documents", True))

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        results = []
        for index in _best_first(scores)[:top]:
            entry: dict[str, Any] = {"index": index, "relevance_score": number(scores[index].score)}
            if with_text:
                entry["document"] = documents[index] if plain else {"text": documents[index]}
            results.append({**entry, "step_scores": scores[index].steps})
        return {"id": new_id("rerank"), "model": model, "results": results, "usage": usage(scores)}

    return Request(pair_items([query] * len(documents), documents, contract), answer)


def _tei(body: Body, contract: StepContract) -> Request:
    query, texts = text_of(body, "query"), documents_of(body, "texts")
    raw, with_text = bool(body.get("raw_scores", False)), bool(body.get("return_text", False))
    # TEI can cut either end of a pair; here only the beginning of the problem goes, so that every step is read
    overlong = "truncate_left" if body.get("truncate", False) else None

    def answer(scores: Sequence[StepScores]) -> list[dict[str, Any]]:
        results = []
        for index in _best_first(scores):
            value = logit(scores[index].score) if raw else scores[index].score
            entry: dict[str, Any] = {"index": index, "score": number(value)}
            if with_text:
                entry["text"] = texts[index]
            results.append({**entry, "step_scores": scores[index].steps})
        return results

    return Request(pair_items([query] * len(texts), texts, contract), answer, overlong)


def _best_first(scores: Sequence[StepScores]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index].score)


def _top(body: Body, count: int) -> int:
    value = body.get("top_n")
    if value is None or value == 0:  # vLLM's default 0 means all
        return count
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequestError(f"'top_n' must be a whole number from 1, found {value!r}")
    return value
