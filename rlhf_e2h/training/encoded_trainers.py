"""TRL's trainers on token ids that `encoding` has made, so that every stage reads a prompt alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_e2h.encoding import encode_prompts


def dpo_trainer() -> Any:
    """TRL's DPOTrainer on rows of `encoding.preference_rows`."""
    from trl import DPOTrainer

    class EncodedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
            """TRL would encode text; as it does, leave out rows whose prompt fills `max_length`."""
            return dataset.filter(lambda row: len(row["prompt_ids"]) < args.max_length)

    return EncodedDPOTrainer


def online_trainer(algorithm: str) -> Any:
    """TRL's GRPOTrainer or RLOOTrainer."""
    from trl import GRPOTrainer, RLOOTrainer

    base: Any = GRPOTrainer if algorithm == "grpo" else RLOOTrainer

    class EncodedTrainer(base):
        def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return encode_prompts(self.processing_class, prompts), None, {}

    return EncodedTrainer
