"""Floating-point operations of reading, training and sampling tokens. Pure arithmetic.

Chowdhery et al. 2022 (PaLM), appendix B: a matrix of n weights costs 2 n a token forwards and 4 n backwards; attention
over a context of T tokens costs 4 T x queries a layer and token forwards (its causal half is not taken off).
"""

from __future__ import annotations

from rlhf_e2h.training.architecture import Architecture


def forward_flops(model: Architecture, tokens: float, context: float, head: float | None = None) -> float:
    """Reading `tokens` tokens in sequences of `context`.

    Args:
        head: tokens whose logits over the vocabulary are computed; default: all. 0 for a reward or value model.
    """
    logits = tokens if head is None else head
    layers = model.layers * (2 * model.layer_parameters + 4 * context * model.queries)
    return tokens * layers + logits * 2 * model.vocabulary * model.hidden


def training_flops(
    model: Architecture, tokens: float, context: float, head: float | None = None, checkpointing: bool = False
) -> float:
    """Forwards and backwards; with gradient checkpointing the layers are read once more."""
    once = forward_flops(model, tokens, context, head)
    return 3 * once + (forward_flops(model, tokens, context, 0) if checkpointing else 0.0)


def sampling_flops(model: Architecture, prompts: float, samples: float, prompt: float, completion: float) -> float:
    """Decoding: each prompt of `prompt` tokens is read once, then `samples` completions of `completion` tokens."""
    read = forward_flops(model, prompts * prompt, prompt, prompts)
    # a token attends to what stands before it; on average prompt and half of the completion
    return read + forward_flops(model, prompts * samples * completion, prompt + completion / 2)
