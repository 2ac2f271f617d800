"""One base model for policy, value model, reference and reward models: LoRA adapters, heads, and the base as it was.

Four full models need four times the memory; here the base is held once. Trained are the adapters of policy and value
model. The reference is the base without an adapter, or with the frozen one that the policy started from; a reward model
is a frozen adapter and its head.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from reward_models.adapters import CannotShareError, SavedAdapter
from reward_models.lora import lora_config
from reward_models.settings import LoraSettings
from rlhf_e2h.rl.adapter_switch import Active, adapted_layers

# names of the adapters; the first is what PEFT calls the one it starts with
POLICY, VALUE, REFERENCE = "default", "value_adapter", "reference_adapter"


class SharedScorer(nn.Module):
    """An adapter of a PEFT policy with a head of its own. Called like a token classifier; logits are (B, L, 1)."""

    _policy: Any
    _layers: list[Any]

    def __init__(self, policy: Any, adapter: str) -> None:
        super().__init__()
        self.adapter = adapter
        self.score = nn.Linear(policy.config.hidden_size, 1, bias=False, device=next(policy.parameters()).device)
        nn.init.zeros_(self.score.weight)
        # held without registering, so that the weights belong to the policy alone
        object.__setattr__(self, "_policy", policy)
        object.__setattr__(self, "_layers", adapted_layers(policy))

    def forward(self, input_ids: Tensor, use_cache: bool = False, **inputs: Any) -> SimpleNamespace:
        trunk = self._policy.get_base_model().base_model
        with Active(self._layers, self.adapter):
            hidden = trunk(input_ids=input_ids, use_cache=use_cache, **inputs).last_hidden_state
        return SimpleNamespace(logits=self.score(hidden.to(self.score.weight.dtype)))


class SharedValue(SharedScorer):
    """The value model: its adapter and its head are trained. The head gives 0 at first."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy, VALUE)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The value adapter's weights, which live inside the policy's modules."""
        return [parameter for name, parameter in self._policy.named_parameters() if f".{VALUE}." in name]

    def start_from(self, reward: SharedReward, zero_head: bool) -> None:
        """Become a copy of a reward model on the same base, with its head or with one that gives 0.

        Raises:
            ValueError: the reward model's adapter has a higher rank than the value model's.
        """
        copy_adapter(self._policy, reward.adapter, VALUE)
        if not zero_head:
            self.score.load_state_dict(reward.score.state_dict())


class SharedReward(SharedScorer):
    """A frozen reward model, for a `Scorer`: it also shows what the fast passes of `reward_models` look for."""

    def __init__(self, policy: Any, adapter: str, head: Tensor) -> None:
        super().__init__(policy, adapter)
        # registered here, unlike in the value model: evaluation mode must reach the trunk, which may be training
        self.trunk = policy.get_base_model().base_model
        self.config = self.trunk.config
        self._supports_attention_backend = getattr(self.trunk, "_supports_attention_backend", False)
        self.score.weight.data.copy_(head)
        self.score.requires_grad_(False)
        self.training = self.score.training = False

    @property
    def device(self) -> torch.device:
        return self.trunk.device

    @property
    def dtype(self) -> torch.dtype:
        return self.trunk.dtype


def share_base(
    base: Any, lora: LoraSettings, start: SavedAdapter | None = None, value_head_only: bool = False
) -> tuple[Any, SharedValue]:
    """(PEFT policy, value model) on one base; with `start` both begin as that adapter, which is also the reference.

    Raises:
        ValueError: no LoRA rank, without which policy and value model would be the same weights, or one below that of
            `start`.
    """
    if lora.r < 1:
        raise ValueError("share_base keeps policy and value model apart by LoRA adapters; set lora: {r: 16}")
    from peft import get_peft_model

    policy = get_peft_model(base, lora_config(lora), adapter_name=POLICY)
    policy.add_adapter(VALUE, lora_config(lora))
    for name, parameter in policy.named_parameters():
        # PEFT freezes adapters that are not active; ours are both trained
        parameter.requires_grad_("lora_" in name and not (value_head_only and f".{VALUE}." in name))
    if start is not None:
        add_frozen(policy, REFERENCE, start)
        copy_adapter(policy, REFERENCE, POLICY)
        copy_adapter(policy, REFERENCE, VALUE)
    return policy, SharedValue(policy)


def share_reward(policy: Any, adapter: str, saved: SavedAdapter) -> SharedReward:
    """A reward model on the base of `policy`, whose fingerprint must have been compared.

    Raises:
        CannotShareError: the adapter has no head that reads like ours, or does not fit the base's layers.
    """
    weight, bias = saved.head.get("weight"), saved.head.get("bias")
    if weight is None or len(weight) != 1 or (bias is not None and bool(bias.any())):
        raise CannotShareError(f"{saved.folder} holds no head with one row and no bias, as reward_models trains it")
    add_frozen(policy, adapter, saved)
    return SharedReward(policy, adapter, weight)


def add_frozen(policy: Any, name: str, saved: SavedAdapter) -> None:
    """Add a saved adapter that is not trained; what is trained stays so, and what is active too.

    Raises:
        CannotShareError: it adapts layers that the base does not have.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    config = LoraSettings(saved.rank, saved.alpha, target_modules=saved.targets)  # type: ignore[arg-type]
    policy.add_adapter(name, lora_config(config))  # not the active one, so it needs no gradient
    room = get_peft_model_state_dict(policy, adapter_name=name, save_embedding_layers=False)
    if {key: value.shape for key, value in room.items()} != {key: v.shape for key, v in saved.weights.items()}:
        policy.delete_adapter(name)
        raise CannotShareError(f"{saved.folder} adapts other layers than this base has")
    set_peft_model_state_dict(policy, saved.weights, adapter_name=name)


@torch.no_grad()
def copy_adapter(policy: Any, source: str, target: str) -> None:
    """Make adapter `target` add what `source` adds. A higher rank is filled up with rows that add nothing yet.

    Raises:
        ValueError: `target` has too low a rank.
    """
    for layer in adapted_layers(policy):
        nn.init.zeros_(layer.lora_B[target].weight)
        if source not in layer.lora_A:
            continue
        rank, room = layer.r[source], layer.r[target]
        if room < rank:
            raise ValueError(
                f"lora.r is {room}, and the adapter that training starts from has rank {rank}; "
                f"set lora.r to {rank} or more"
            )
        scale = layer.scaling[source] / layer.scaling[target]
        layer.lora_A[target].weight[:rank] = layer.lora_A[source].weight
        layer.lora_B[target].weight[:, :rank] = layer.lora_B[source].weight * scale


def keep_policy_adapter(policy: Any) -> None:
    """Leave the policy's adapter alone, so that merging it into the base merges nothing else."""
    for name in [name for name in policy.peft_config if name != POLICY]:
        policy.delete_adapter(name)


def as_reference(policy: Any) -> contextlib.AbstractContextManager[None]:
    """Inside, a PEFT model is its reference: the frozen adapter that it started from, or its base."""
    if VALUE in policy.peft_config:
        # PEFT's own switch freezes, on the way back, all adapters that are not active: the value model would not learn
        return Active(adapted_layers(policy), *[name for name in (REFERENCE,) if name in policy.peft_config])
    return policy.disable_adapter()


def trained_parameters(policy: nn.Module, value_model: nn.Module) -> list[list[torch.nn.Parameter]]:
    """Parameters that are trained, of the policy and of the value model, each once."""
    value = [parameter for parameter in value_model.parameters() if parameter.requires_grad]
    if isinstance(value_model, SharedValue):
        value += [parameter for parameter in value_model.adapter_parameters() if parameter.requires_grad]
    theirs = {id(parameter) for parameter in value}
    return [[p for p in policy.parameters() if p.requires_grad and id(p) not in theirs], value]
