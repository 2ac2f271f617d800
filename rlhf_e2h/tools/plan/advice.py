"""What lowers the memory of the phase that decides, in the words of the stage's settings."""

from __future__ import annotations

from rlhf_e2h.tools.plan.memory import Parts

SHARDED = 0.75  # share of a GPU from which weights alone leave no room for anything else
STATES = ("weights", "gradients", "optimiser", "buckets", "bf16 copies", "float32 gradients", "gathered weights")

# settings that lower what moves in a phase, by kind of stage; the first that fits the stage and phase
_ROWS = {
    ("ppo", "rollout"): "generation_batch",
    ("ppo", "scoring"): "reward_batch_tokens",
    ("ppo", "log-probabilities"): "forward_batch",
    ("ppo", "forward and backward"): "per_device_train_batch_size",
    ("grpo", "rollout"): "training.batch_size",
    ("grpo", "scoring"): "reward_batch_tokens",
    ("rerank", "scoring"): "max_tokens_per_batch",
    ("evaluate", "sampling"): "batch_size",
}


def weights_fill(parts: Parts, limit: float) -> bool:
    """Whether the weights of a model that samples or scores leave next to no room on one GPU."""
    return parts.get("weights", 0.0) > SHARDED * limit


def advice(kind: str, phase: str, parts: Parts, filled: bool) -> str:
    """One phrase: what to change first.

    Args:
        filled: the weights leave next to no room.
    """
    if kind in ("sample", "evaluate") and filled:
        return "split the model: `vllm serve` with --tensor-parallel-size 2 or more, and its address as engine.url"
    if kind == "rerank" and filled:
        return "a GPU with more memory, since a scorer is not split; or lower max_tokens_per_batch"
    largest = max(parts, key=lambda part: parts[part])
    if largest == "vLLM engine":
        return "lower engine.memory_share"
    if largest in STATES or largest.endswith("model") or largest == "reference":
        if kind in ("sample", "rerank", "evaluate"):
            return "a smaller model, or a GPU with more memory"
        return "more GPUs, a launch file that shards more, LoRA (lora.r), or a smaller model"
    if phase == "forward and backward" and kind != "ppo":
        rows = "training.per_device_train_batch_size"
    else:
        rows = _ROWS.get((kind, phase), "decoding.batch_size")
    if phase == "forward and backward" and largest == "activations":
        return f"lower {rows}, or set gradient_checkpointing: true"
    return f"lower {rows}"
