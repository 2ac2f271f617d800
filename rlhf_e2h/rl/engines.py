"""Rollout engines behind one interface, chosen by name.

    hf      our decoding loop (`rollout.generate`) on the model that is trained: nothing is copied; the default
    paged   continuous batching of transformers, on the same weights
    vllm    vLLM: in this process if it is installed here, or a server at `url`

Each gives `Rollouts` with the log-probability of every token under the distribution that was sampled (temperature and
top-k included), computes the prompt of a problem once for its n samples, ends at end of sequence or `max_new_tokens`,
and gives the same samples for the same seed. Greedy completions are the same in all; sampled ones are not, since each
engine draws its own random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.rl.rollout import Rollouts, generate


@dataclass
class EngineSettings:
    """Which engine samples, and what it needs."""

    name: Literal["hf", "paged", "vllm"] = "hf"
    url: str | None = None  # vllm: server, e.g. http://localhost:8000; without it vLLM runs in this process
    memory_share: float = 0.3  # vllm in this process: of the device's memory, for weights and cache
    context: int | None = None  # vllm in this process: most tokens of prompt and completion; the model's limit if unset
    page_size: int = 32  # paged: tokens a page of the cache

    def __post_init__(self) -> None:
        if self.url is not None and self.name != "vllm":
            raise ValueError(f"engine {self.name} has no server; remove url, or set name: vllm")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}; it must start with http:// or https://")
        if not 0 < self.memory_share <= 1:
            raise ValueError(f"memory_share is {self.memory_share}; it is a share, above 0 and at most 1")
        if self.page_size < 4:
            raise ValueError(f"page_size is {self.page_size}; transformers needs at least 4")


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled; the arguments of `rollout.generate`."""

    n: int = 1
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0: all tokens
    max_new_tokens: int = 256
    seed: int = 0
    batch_size: int = 256  # completions decoded together, where the engine does not decide itself
    first_row: int = 0  # number of the first completion in a larger batch of which these prompts are a part


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
    if settings.name == "paged":
        from rlhf_e2h.rl.engine_paged import PagedEngine

        return PagedEngine(model, tokenizer, settings.page_size)
    if settings.name == "vllm":
        from rlhf_e2h.rl.engine_vllm import ColocatedVLLM, VLLMServer

        engine: Engine = (
            VLLMServer(settings.url, tokenizer) if settings.url else ColocatedVLLM(settings, model, tokenizer)
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


def plain_model(model: Any) -> Any:
    """The causal language model inside a PEFT model, adapters in its layers; other models as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def plain_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a model as its plain class has them, one after the other.

    The active LoRA adapters are added on the way, a layer at a time and into a copy: merging in place and back would
    leave rounding errors in the weights that are trained.
    """
    bare = plain_model(model)
    for name, parameter in bare.named_parameters():
        if ".lora_" in name:
            continue
        weight = parameter.detach()
        if ".base_layer." in name:
            layer_name, _, kind = name.partition(".base_layer.")
            layer = bare.get_submodule(layer_name)
            if kind == "weight":
                for adapter in layer.active_adapters:
                    if adapter in layer.lora_A:
                        weight = weight + layer.get_delta_weight(adapter).detach().to(weight.dtype)
            name = f"{layer_name}.{kind}"
        yield name, weight
