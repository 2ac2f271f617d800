"""Which LoRA adapter of a shared base is active, switched without PEFT's `set_adapter`, which freezes all others."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import nn

Layers = Sequence[Any]  # those of PEFT that hold adapters


def adapted_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


class Active(contextlib.AbstractContextManager[None]):
    """Inside, these adapters are added to the base, or none; afterwards those are active again that were."""

    def __init__(self, layers: Layers, *names: str) -> None:
        self.layers, self.names = layers, [*names]

    def __enter__(self) -> None:
        self.before = [layer._active_adapter for layer in self.layers]
        for layer in self.layers:
            layer._active_adapter = self.names

    def __exit__(self, *_: object) -> None:
        for layer, before in zip(self.layers, self.before, strict=True):
            layer._active_adapter = before


def checkpoint_gradients(model: Any) -> None:
    """Gradient checkpointing of a model whose active adapter changes between forward and backward pass.

    A layer is computed again in the backward pass, when another adapter is active: it must be that of the forward pass.
    """
    layers = adapted_layers(model)

    def contexts() -> tuple[Any, Any]:
        """Called in the forward pass; (context of the forward pass, context of the recomputation)."""
        return contextlib.nullcontext(), Active(layers, *layers[0].active_adapters)

    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
