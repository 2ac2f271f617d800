"""Which path speaks which shape.

| path | shape |
|---|---|
| /v1/rerank, /v2/rerank, /rerank with `documents` | Cohere, Jina, vLLM |
| /infinity/rerank | Infinity: as above, documents returned as plain texts |
| /rerank with `texts`, /predict | Text Embeddings Inference |
| /score, /v1/score, /classify, /pooling | vLLM |
| /get_reward | OpenRLHF remote reward model |

Each is a pure function: JSON to items to score and a function from scores to JSON. Every answer carries the scores of
the steps in an extra field `step_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reward_models.contract import StepContract
from reward_models.serving.request import Body, Request
from reward_models.serving.rerank import rerank
from reward_models.serving.score import classify, get_reward, pooling, predict, score

Route = Callable[[Body], Request]
# Cohere's clients add their version to the base address, which may end in /v1 already
RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/v1/rerank", "/v1/v2/rerank")
INFINITY_PATHS = ("/infinity/rerank", "/infinity/v1/rerank")


def routes(contract: StepContract, model: str, special: Sequence[str]) -> Mapping[str, Route]:
    """Paths with what reads their bodies; `special` are token texts that clients leave at the ends of whole texts."""
    return {
        **dict.fromkeys(RERANK_PATHS, lambda body: rerank(body, contract, model)),
        # the same request as to vLLM and another answer, so that only the address can tell which is meant
        **dict.fromkeys(INFINITY_PATHS, lambda body: rerank(body, contract, model, plain=True)),
        **dict.fromkeys(("/score", "/v1/score"), lambda body: score(body, contract, model)),
        **dict.fromkeys(("/classify", "/v1/classify"), lambda body: classify(body, contract, model, special)),
        **dict.fromkeys(("/pooling", "/v1/pooling"), lambda body: pooling(body, contract, model, special)),
        "/predict": lambda body: predict(body, contract, special),
        "/get_reward": lambda body: get_reward(body, contract, special),
    }
