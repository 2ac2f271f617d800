"""TRL's trainers on token ids that `encoding` has made, so that every stage reads a prompt alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from reward_models.one_reader import shard_zero3, sharding
from rlhf_e2h.encoding import encode_prompts


def dpo_trainer() -> Any:
    """TRL's DPOTrainer on rows of `encoding.preference_rows`."""
    from trl import DPOTrainer

    class EncodedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
            """TRL would encode text; as it does, leave out rows whose prompt fills `max_length`."""
            return dataset.filter(lambda row: len(row["prompt_ids"]) < args.max_length)

    return EncodedDPOTrainer


def shard_reference(reference: Any, arguments: Any) -> None:
    """Shard a reference, which rank 0 may have read alone, where the policy will be; before TRL's trainer is made.

    `arguments`: those of the trainer.
    """
    kind = sharding()
    if kind == "zero3":
        zero = arguments.deepspeed_plugin.deepspeed_config["zero_optimization"]
        shard_zero3(reference, zero, torch.bfloat16 if arguments.bf16 else None)
    elif kind == "fsdp":
        from rlhf_e2h.parallel import fsdp

        fsdp.shard_reference(reference, arguments.distributed_state, arguments.bf16)


def online_trainer(algorithm: str) -> Any:
    """TRL's GRPOTrainer or RLOOTrainer."""
    from trl import GRPOTrainer, RLOOTrainer

    base: Any = GRPOTrainer if algorithm == "grpo" else RLOOTrainer

    class EncodedTrainer(base):
        def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return encode_prompts(self.processing_class, prompts), None, {}

    return EncodedTrainer
