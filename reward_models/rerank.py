"""Rerank candidate answers of a question, with the calls of `sentence_transformers.CrossEncoder`.

Reranker.from_pretrained("runs/prm").rank("What is 2 + 3?", ["2 + 3 = 6\\n\\n# Answer\\n\\n6", ...], top_k=3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_models.readout import split_documents
from reward_models.score import Scorer, StepScores
from reward_models.step_text import normalise_newlines


class Reranker:
    """Ranks whole texts; the contract's separator cuts them into steps."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Reranker:
        """Load a checkpoint; options are those of `Scorer.from_pretrained` (device, dtype, overlong, ...)."""
        return cls(Scorer.from_pretrained(path, **options))

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = True
    ) -> list[dict[str, Any]]:
        """Documents from best to worst: `corpus_id` (position in `documents`), `score`, `text`, and `step_scores`.

        Equal scores keep their order. A document skipped as too long comes last, with score NaN.

        Raises:
            ValueError: an empty document (named by position), or `top_k` below 1.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1, or None for all documents")
        scored = self.score_pairs([(query, document) for document in documents])
        order = sorted(range(len(scored)), key=lambda place: _sort_key(scored[place].score))
        results = []
        for place in order[:top_k]:
            result: dict[str, Any] = {"corpus_id": place, "score": scored[place].score}
            if return_documents:
                result["text"] = documents[place]
            results.append({**result, "step_scores": scored[place].steps})
        return results

    def predict(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The score of each (question, answer text) pair, in the order given."""
        return [scores.score for scores in self.score_pairs(pairs)]

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[StepScores]:
        """All step scores of each (question, answer text) pair, in the order given.

        Raises:
            ValueError: an empty document (named by position), or one whose steps are joined by another separator than
                the contract's.
        """
        for place, (_, document) in enumerate(pairs):
            if not document.strip():
                raise ValueError(f"document {place} is empty; there is nothing to score")
        steps = split_documents(self.scorer.contract, [document for _, document in pairs])
        return list(
            self.scorer.score_stream(zip([normalise_newlines(query) for query, _ in pairs], steps, strict=True))
        )


def _sort_key(score: float) -> float:
    return math.inf if math.isnan(score) else -score
