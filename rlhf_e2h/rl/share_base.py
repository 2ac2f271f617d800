"""One base model for policy, value model and reference: two LoRA adapters, a head, and the base as it was.

Four full models need four times the memory; here the base is held once. The reference is the base without an adapter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_e2h.models import LoraSettings, lora_config

POLICY, VALUE = "default", "value_adapter"  # names of the adapters; the first is what PEFT calls the one it starts with


class SharedValue(nn.Module):
    """A value model on the base of a PEFT policy: its own adapter, and a head that gives 0 at first.

    Called like a token classifier: `forward(input_ids=...).logits` is (B, L, 1).
    """

    _policy: Any

    def __init__(self, policy: Any) -> None:
        super().__init__()
        # held without registering, so that the weights belong to the policy alone
        object.__setattr__(self, "_policy", policy)
        reference = next(policy.parameters())
        self.score = nn.Linear(policy.config.hidden_size, 1, bias=False, device=reference.device)
        nn.init.zeros_(self.score.weight)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        causal = self._policy.get_base_model()
        trunk = getattr(causal, causal.base_model_prefix)
        with _active(self._policy, VALUE):
            hidden = trunk(input_ids=input_ids, use_cache=use_cache).last_hidden_state
        return SimpleNamespace(logits=self.score(hidden.to(self.score.weight.dtype)))

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The value adapter's weights, which live inside the policy's modules."""
        return [parameter for name, parameter in self._policy.named_parameters() if f".{VALUE}." in name]


def share_base(base: Any, lora: LoraSettings) -> tuple[Any, SharedValue]:
    """(PEFT policy, value model) on one base.

    Raises:
        ValueError: no LoRA rank, without which policy and value model would be the same weights.
    """
    if lora.rank < 1:
        raise ValueError("share_base keeps policy and value model apart by LoRA adapters; set lora: {rank: 16}")
    from peft import get_peft_model

    policy = get_peft_model(base, lora_config(lora), adapter_name=POLICY)
    policy.add_adapter(VALUE, lora_config(lora))
    for name, parameter in policy.named_parameters():
        # PEFT freezes adapters that are not active; ours are both trained
        parameter.requires_grad_("lora_" in name)
    return policy, SharedValue(policy)


def drop_value_adapter(policy: Any) -> None:
    """Leave the policy's adapter alone, so that merging it into the base merges nothing else."""
    if VALUE in policy.peft_config:
        policy.delete_adapter(VALUE)


def without_adapters(policy: Any) -> contextlib.AbstractContextManager[None]:
    """Inside, a PEFT model is its base."""
    # PEFT's own switch freezes, on the way back, every adapter that is not active: the value adapter would never learn
    return _active(policy, None) if VALUE in policy.peft_config else policy.disable_adapter()


@contextlib.contextmanager
def _active(policy: Any, name: str | None) -> Iterator[None]:
    """Switch the adapter of every layer. Not PEFT's own `set_adapter`, which also freezes the others' weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._active_adapter = [] if name is None else [name]
    try:
        yield
    finally:
        for layer in layers:
            layer._active_adapter = [POLICY]


def trained_parameters(policy: nn.Module, value_model: nn.Module) -> list[list[torch.nn.Parameter]]:
    """Parameters that are trained, of the policy and of the value model, each once."""
    value = [parameter for parameter in value_model.parameters() if parameter.requires_grad]
    if isinstance(value_model, SharedValue):
        value += [parameter for parameter in value_model.adapter_parameters() if parameter.requires_grad]
    theirs = {id(parameter) for parameter in value}
    return [[p for p in policy.parameters() if p.requires_grad and id(p) not in theirs], value]
