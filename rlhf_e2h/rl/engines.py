"""Rollout engines behind one interface, chosen by name.

    hf      our decoding loop (`rollout.generate`) on the model that is trained: nothing is copied; the default
    vllm    vLLM: in this process if it is installed here, or a server at `url`

Each gives `Rollouts` with the log-probability of every token under the distribution that was sampled (temperature and
top-k included), computes the prompt of a problem once for its n samples, ends at end of sequence or `max_new_tokens`,
and gives the same samples for the same seed. Greedy completions are the same in all; sampled ones are not, since each
engine draws its own random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling, engine_dtype, plain_model
from rlhf_e2h.rl.rollout import Rollouts, generate


class Engine(Protocol):
    """What samples. `update` comes before sampling whenever the weights have changed."""

    one_for_all: bool  # one server for all processes: only the main process updates it

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, on_batch: Callable[[int], None] | None = None
    ) -> Rollouts: ...

    def update(self, model: Any) -> None: ...

    def close(self) -> None: ...


def open_engine(settings: EngineSettings, model: Any, tokenizer: Tokenizer) -> Engine:
    """The engine of a name, with the weights of `model` in it.

    Raises:
        ValueError: the engine does not run here; the message says what to do.
    """
    if settings.name == "vllm":
        from rlhf_e2h.rl.engine_vllm import ColocatedVLLM, VLLMServer

        engine: Engine = (
            VLLMServer(settings.url, tokenizer, plain_model(model).config.vocab_size, engine_dtype(settings, model))
            if settings.url
            else ColocatedVLLM(settings, model, tokenizer)
        )
        engine.update(model)
        return engine
    return HFEngine(model, tokenizer)


class HFEngine:
    """Our decoding loop; it samples from the very module that is trained, so there is nothing to update."""

    one_for_all = False

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, on_batch: Callable[[int], None] | None = None
    ) -> Rollouts:
        return generate(self.model, self.tokenizer, prompts, on_batch=on_batch, **asdict(sampling))

    def update(self, model: Any) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
