"""Shapes that score in the order given: vLLM's /score, /pooling, /classify, TEI's /predict, OpenRLHF's /get_reward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from reward_models.contract import StepContract
from reward_models.score import StepScores
from reward_models.serving.request import (
    BadRequestError,
    Body,
    Item,
    Request,
    logit,
    new_id,
    number,
    pair_items,
    texts_of,
    usage,
)
from reward_models.serving.whole_text import count_unsplit, input_items, whole_items

# vLLM's, newest first
SCORE_FIELDS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
LABEL = "score"  # the name of the one class
POOLING_TASKS = ("", "token_classify", "classify")  # the first two: a score a step


def score(body: Body, contract: StepContract, model: str) -> Request:
    """vLLM: one to one or one to many, under any of SCORE_FIELDS."""
    names = next((pair for pair in SCORE_FIELDS if pair[0] in body and pair[1] in body), None)
    if names is None:
        names = next((pair for pair in SCORE_FIELDS if pair[0] in body or pair[1] in body), SCORE_FIELDS[0])
    left, right = (texts_of(body, name) for name in names)
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise BadRequestError(f"{names[0]} has {len(left)} texts, {names[1]} has {len(right)}; give one, or as many")
    shown = _value_of(body)

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        data = [{"object": "score", "score": shown(entry.score), "step_scores": entry.steps} for entry in scores]
        return _listed("score", model, data, scores)

    return Request(pair_items(left, right, contract), answer)


def classify(body: Body, contract: StepContract, model: str, special: Sequence[str]) -> Request:
    """vLLM: whole texts (`input`) or one conversation (`messages`); a single class, its probability the score."""
    items, shown = input_items(body, contract, special), _value_of(body)

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        data = [
            {"label": LABEL, "probs": [shown(entry.score)], "num_classes": 1, "step_scores": entry.steps}
            for entry in scores
        ]
        return _listed("classify", model, data, scores)

    return Request(items, answer, unsplit=count_unsplit(items, contract))


def pooling(body: Body, contract: StepContract, model: str, special: Sequence[str]) -> Request:
    """vLLM: as `classify`, with one row a step, as vLLM pools models of steps; `task: classify` gives one number."""
    task = body.get("task") or ""
    if task not in POOLING_TASKS:
        raise BadRequestError(f"'task' must be 'token_classify' (a score a step) or 'classify' (one), found {task!r}")
    if body.get("encoding_format", "float") != "float":
        raise BadRequestError(f"'encoding_format' must be 'float', found {body['encoding_format']!r}")
    items, shown = input_items(body, contract, special), _value_of(body)

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        values = [
            [shown(entry.score)] if task == "classify" else [[shown(step)] for step in entry.steps] for entry in scores
        ]
        return _listed("pool", model, [{"object": "pooling", "data": value} for value in values], scores)

    return Request(items, answer, unsplit=count_unsplit(items, contract))


def predict(body: Body, contract: StepContract, special: Sequence[str]) -> Request:
    """Text Embeddings Inference: a whole text, a pair of problem and solution, or a list of such lists."""
    inputs = body.get("inputs")
    single = isinstance(inputs, str) or (isinstance(inputs, list) and all(isinstance(part, str) for part in inputs))
    rows: Any = [inputs] if single else inputs
    if not isinstance(rows, list) or not rows:
        raise BadRequestError(f"'inputs' must be a text, a pair of texts or a list of such lists, found {inputs!r:.60}")
    items = [_sequence(row, place, contract, special) for place, row in enumerate(rows)]
    raw = bool(body.get("raw_scores", False))

    def answer(scores: Sequence[StepScores]) -> list[Any]:
        found = [
            [{"score": number(logit(entry.score) if raw else entry.score), "label": LABEL, "step_scores": entry.steps}]
            for entry in scores
        ]
        return found[0] if single else found

    overlong = "truncate_left" if body.get("truncate", False) else None
    return Request(items, answer, overlong, count_unsplit(items, contract))


def _sequence(row: Any, place: int, contract: StepContract, special: Sequence[str]) -> Item:
    texts = texts_of({"inputs": row}, "inputs")
    if len(texts) > 2:
        raise BadRequestError(f"inputs {place} has {len(texts)} texts; give one whole text, or problem and solution")
    if len(texts) == 2:
        return pair_items(texts[:1], texts[1:], contract)[0]
    return whole_items(texts, [None], contract, special, "inputs")[0]


def get_reward(body: Body, contract: StepContract, special: Sequence[str]) -> Request:
    """OpenRLHF: `query` holds whole texts, prompt and solution; `prompts`, if sent, says where each solution begins.

    `special` are token texts (BOS, EOS, pad) that clients leave at the ends.
    """
    texts = texts_of(body, "query")
    prompts = body.get("prompts") or [None] * len(texts)
    if not isinstance(prompts, list) or len(prompts) != len(texts):
        raise BadRequestError(f"prompts must be a list of {len(texts)} texts, one for each query")
    items = whole_items(texts, prompts, contract, special, "query")

    def answer(scores: Sequence[StepScores]) -> dict[str, Any]:
        rewards = [number(entry.score) for entry in scores]
        logs = {"step_scores": [entry.steps for entry in scores]}
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}, **logs}

    return Request(items, answer, unsplit=count_unsplit(items, contract))


def _value_of(body: Body) -> Callable[[float], float | None]:
    """Probabilities, or their logits where a client of vLLM asks for no activation."""
    names = ("use_activation", "activation", "softmax")  # the first is current, the others are vLLM's older names
    wanted = next((body[name] for name in names if body.get(name) is not None), True)
    return number if wanted else lambda value: number(logit(value))


def _listed(kind: str, model: str, data: Sequence[dict[str, Any]], scores: Sequence[StepScores]) -> dict[str, Any]:
    return {
        "id": new_id(kind),
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": index, **entry} for index, entry in enumerate(data)],
        "usage": usage(scores),
    }
