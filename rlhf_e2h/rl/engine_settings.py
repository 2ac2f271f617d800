"""Settings of rollout engines and of one sampling, and what the weights of an engine are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rlhf_e2h.rl.rollout import check_sampling
from rlhf_e2h.runner.config import setting

DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class EngineSettings:
    """Which engine samples, and what it needs."""

    name: str = "hf"  # hf or vllm
    url: str | None = None  # vllm: server, e.g. http://localhost:8000; without it vLLM runs in this process
    memory_share: float = 0.3  # vllm in this process: of the device's memory, for weights and cache
    context: int | None = None  # vllm in this process: most tokens of prompt and completion; the model's limit if unset
    # vllm: of its weights, and of those that it is handed; auto is bfloat16 on GPUs, whatever the policy is trained in,
    # and the policy's own on CPUs
    dtype: str = setting("auto", added=True)

    def __post_init__(self) -> None:
        if self.name not in ("hf", "vllm"):
            gone = "; paged has been removed, since hf is faster" if self.name == "paged" else ""
            raise ValueError(f"engine name is {self.name!r}; allowed: hf, vllm{gone}")
        if self.url is not None and self.name != "vllm":
            raise ValueError(f"engine {self.name} has no server; remove url, or set name: vllm")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}; it must start with http:// or https://")
        if self.dtype not in DTYPES:
            raise ValueError(f"engine dtype is {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        if not 0 < self.memory_share <= 1:
            raise ValueError(f"memory_share is {self.memory_share}; it is a share, above 0 and at most 1")


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
    top_p: float = 1.0  # 1: all tokens
    min_p: float = 0.0  # 0: all tokens
    stop: Sequence[str] = ()  # texts of which any ends a completion

    def check(self, prompts: Sequence[str]) -> None:
        """
        Raises:
            ValueError: what is out of range, and the range.
        """
        check_sampling(
            prompts, self.n, self.temperature, self.top_k, self.max_new_tokens, self.top_p, self.min_p, self.stop
        )


def engine_dtype(settings: EngineSettings, model: Any) -> torch.dtype:
    """Precision in which an engine beside the model holds its weights."""
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return plain_model(model).dtype


def plain_model(model: Any) -> Any:
    """The causal language model inside a PEFT model, adapters in its layers; other models as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def plain_weights(model: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a model as its plain class has them, one after the other, in `dtype` if it is given.

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
        yield name, weight if dtype is None else weight.to(dtype)


def weight_groups(weights: Iterable[tuple[str, Tensor]], most: int) -> Iterator[dict[str, Tensor]]:
    """The same weights in groups of at most `most` bytes, the layers of a transformer whole: engines fuse matrices of a
    layer, and take them together. A layer that is larger than that is a group of its own."""
    group: dict[str, Tensor] = {}
    for _, members in groupby(weights, lambda item: _layer_of(item[0])):
        layer = dict(members)
        if group and sum(map(_bytes, [*group.values(), *layer.values()])) > most:
            yield group
            group = {}
        group |= layer
    if group:
        yield group


def _layer_of(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `model.layers.3`; names outside of layers as they are."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else name


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()
