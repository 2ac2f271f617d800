"""Sampling with the continuous batching of transformers: pages of cache, finished rows replaced at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.rl.engines import Sampling, plain_model
from rlhf_e2h.rl.rollout import Rollouts, check_sampling, collect


class PagedEngine:
    """`generate_batch` on the weights that are trained. The n samples of a prompt are forked after its prefill.

    Made for GPUs: on a CPU it is correct and slow, since every step goes through one thread and masked attention.
    """

    one_for_all = False

    def __init__(self, model: Any, tokenizer: Tokenizer, page_size: int) -> None:
        """
        Raises:
            ValueError: the model's class has no continuous batching.
        """
        self.model, self.tokenizer, self.page_size = model, tokenizer, page_size
        bare = plain_model(model)
        if not hasattr(bare, "generate_batch") or not getattr(bare, "_supports_attention_backend", True):
            raise ValueError(
                f"{type(bare).__name__} has no continuous batching in this version of transformers; set engine name: hf"
            )

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, on_batch: Callable[[int], None] | None = None
    ) -> Rollouts:
        from transformers import ContinuousBatchingConfig

        check_sampling(prompts, sampling.n, sampling.temperature, sampling.top_k, sampling.max_new_tokens)
        encoded = encode_prompts(self.tokenizer, prompts)
        greedy = sampling.temperature == 0
        generation = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=not greedy,
            temperature=None if greedy else sampling.temperature,
            top_k=None if greedy else sampling.top_k,
            top_p=None if greedy else 1.0,
            num_return_sequences=sampling.n,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        cuda = torch.cuda.is_available()
        limits: dict[str, Any] = {} if cuda else self._cpu_limits(encoded, sampling)
        batching = ContinuousBatchingConfig(
            return_logprobs=True,
            # a part of a larger batch must not repeat the samples of another part
            seed=(sampling.seed * 2_000_003 + sampling.first_row) % 2**31,
            page_size=self.page_size,
            auto_switch_to_flash=cuda,
            **limits,
        )
        model = plain_model(self.model)
        was_training = model.training
        try:
            found = list(model.generate_batch(encoded, generation, batching, warmup=cuda).values())
        finally:
            model.train(was_training)
        failed = [output for output in found if output.error is not None]
        if failed or len(found) != len(prompts) * sampling.n:
            why = failed[0].error if failed else "the generation thread ended; its message is above"
            raise RuntimeError(
                f"engine paged finished {len(found) - len(failed)} of {len(prompts) * sampling.n} completions: {why}. "
                "Set engine name: hf"
            )
        if on_batch:
            on_batch(len(found))
        return collect(self.tokenizer, encoded, [(o.generated_tokens, o.logprobs) for o in found], sampling.n)

    def _cpu_limits(self, encoded: list[list[int]], sampling: Sampling) -> dict[str, int]:
        """Transformers sizes the cache by free memory of a GPU; here it is sized by what is asked for."""
        rows = min(len(encoded) * sampling.n, sampling.batch_size)
        longest = max(map(len, encoded)) + sampling.max_new_tokens
        pages = -(-longest // self.page_size)
        return {
            "max_batch_tokens": max(longest, rows),
            "num_blocks": rows * pages + 1,
            "max_requests_per_batch": rows,
        }

    def update(self, model: Any) -> None:
        self.model = model

    def close(self) -> None:
        """Nothing is kept between calls."""
