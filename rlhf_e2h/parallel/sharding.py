"""What differs where DeepSpeed or FSDP shards states, gradients or weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from reward_models import master_weights
from reward_models.one_reader import shard_zero3, sharding
from rlhf_e2h.parallel import fsdp
from rlhf_e2h.parallel.processes import launched_with_fsdp
from rlhf_e2h.rl.actor_critic import ActorCritic
from rlhf_e2h.rl.checkpoint import WEIGHTS, load_optimizer, optimizer_tensors, trainable
from rlhf_e2h.rl.share_base import SharedValue


def uses_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def weights_are_divided(accelerator: Accelerator) -> bool:
    """ZeRO-3 and FSDP: a parameter is whole only inside `whole_weights`."""
    if not uses_deepspeed(accelerator):
        return uses_fsdp(accelerator)
    return int(accelerator.state.deepspeed_plugin.zero_stage) == 3


def uses_fsdp(accelerator: Accelerator) -> bool:
    """Whether the launch file asks for FSDP; one process alone has nobody to divide with."""
    return launched_with_fsdp() and accelerator.num_processes > 1


def configure(accelerator: Accelerator, micro_batch: int, accumulation: int, max_grad_norm: float) -> None:
    """Tell Accelerate, and DeepSpeed if it is used, what our batch is made of; there is no data loader to ask."""
    accelerator.gradient_accumulation_steps = accumulation
    accelerator.step = 0  # micro-batches are counted from here; what an earlier training left would shift every update
    if uses_deepspeed(accelerator):
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = micro_batch
        config["gradient_accumulation_steps"] = accumulation
        # one norm for policy and value model together: DeepSpeed clips inside its own step
        config["gradient_clipping"] = max_grad_norm


def divide(module: ActorCritic, accelerator: Accelerator) -> None:
    """Under FSDP and ZeRO-3, divide policy and value model. Their parameters may be others afterwards: make the
    optimiser after it.

    Raises:
        ValueError: `share_base`, which FSDP cannot divide.
    """
    _divide_zero3(module, accelerator)
    if not uses_fsdp(accelerator):
        return
    if isinstance(module.value_model, SharedValue):
        raise ValueError(
            "share_base does not run under FSDP, which gathers the policy's weights for its own passes only, not for "
            "those of the value model; use launch/zero2.yaml or launch/ddp.yaml, or set share_base: false"
        )
    for part in (module.policy, module.value_model):
        fsdp.shard(part, accelerator)


def _divide_zero3(module: nn.Module, accelerator: Accelerator) -> None:
    if sharding() == "zero3" and uses_deepspeed(accelerator):
        zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        shard_zero3(module, zero, torch.bfloat16 if rounded(accelerator) else None)


def prepare_training(
    module: ActorCritic, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> tuple[Any, Any]:
    """Module and optimiser in what Accelerate puts around them."""
    if not uses_fsdp(accelerator):
        return accelerator.prepare(module, optimizer)
    # evaluation_mode: autocast around the forward pass, but no DDP around what is sharded already
    engine = accelerator.prepare_model(module, device_placement=False, evaluation_mode=True)
    return engine, accelerator.prepare_optimizer(optimizer)


def prepare_reference(reference: PreTrainedModel, accelerator: Accelerator) -> Any:
    """The frozen reference where it is needed: on the device, or sharded like the rest under ZeRO-3 and FSDP."""
    reference.eval().requires_grad_(False)
    if uses_fsdp(accelerator):
        fsdp.shard_frozen(reference, accelerator)
        return reference
    if weights_are_divided(accelerator):
        from trl.models.utils import prepare_deepspeed

        _divide_zero3(reference, accelerator)
        return prepare_deepspeed(reference, accelerator)
    if uses_deepspeed(accelerator) and accelerator.mixed_precision == "bf16":
        nn.Module.to(reference, torch.bfloat16)  # as DeepSpeed makes the policy
    return nn.Module.to(reference, accelerator.device)


@contextlib.contextmanager
def whole_weights(part: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Inside, `part` (policy or value model in training) has all its weights on every process.

    They are gathered once, and the hooks that gather are off: token after token would otherwise gather layer after
    layer, and processes whose completions end early would leave the others waiting.
    """
    if uses_fsdp(accelerator):
        with fsdp.gathered(part):
            yield
        return
    if not weights_are_divided(accelerator):
        yield
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    engine = accelerator.deepspeed_engine_wrapped.engine
    with deepspeed.zero.GatheredParameters(list(part.parameters())):
        remove_hooks(engine)
        try:
            yield
        finally:
            add_hooks(engine)


def whole_copy(part: nn.Module, accelerator: Accelerator, trained: bool = False) -> dict[str, Tensor]:
    """All weights of `part`, or only the `trained` ones, on the CPU of the main process; empty on the others.

    Every process must call it. Names are those of `state_dict`. Weights that are not sharded are not copied;
    those that DeepSpeed trains in float32 are, in float32.
    """
    main = accelerator.is_main_process
    if uses_fsdp(accelerator):
        return fsdp.whole(trainable(part) if trained else part.state_dict(), main)
    found: dict[str, Tensor] = {}
    with whole_weights(part, accelerator):
        if main:
            tensors = trainable(part) if trained else part.state_dict()
            copied = weights_are_divided(accelerator)
            found = {n: v.detach().cpu().clone() if copied else v.detach() for n, v in tensors.items()}
    return master_weights.with_master_weights(found, part, main) if rounded(accelerator) else found


def rounded(accelerator: Accelerator) -> bool:
    """Whether the models hold bf16 roundings of weights that DeepSpeed trains in float32."""
    return uses_deepspeed(accelerator) and accelerator.mixed_precision == "bf16"


def whole_moments(module: nn.Module, optimizer: Any, accelerator: Accelerator) -> dict[str, Tensor]:
    """Adam's state as `parameter:slot`, the same under every parallelism strategy; on the main process, else empty.

    Every process must call it.
    """
    if uses_deepspeed(accelerator):
        return _engine_moments(module, optimizer)
    moments, main = optimizer_tensors(module, optimizer.optimizer), accelerator.is_main_process
    if uses_fsdp(accelerator):
        return fsdp.whole(moments, main)
    return moments if main else {}


def load_master_weights(folder: Path, module: nn.Module, accelerator: Accelerator) -> None:
    """Under DeepSpeed in bf16, the float32 weights of a checkpoint; elsewhere the models have them already."""
    if rounded(accelerator):
        saved = load_file(folder / WEIGHTS)
        master_weights.set_master_weights(module, saved, accelerator.process_index, accelerator.num_processes)


def load_whole_moments(module: nn.Module, optimizer: Any, saved: dict[str, Tensor], accelerator: Accelerator) -> None:
    """Put the `whole_moments` of any parallelism strategy back; every process has read all of them."""
    if uses_deepspeed(accelerator):
        _load_engine_moments(module, optimizer, saved)
        return
    if uses_fsdp(accelerator):
        parameters = trainable(module)
        saved = {key: fsdp.like(value, parameters[key.rsplit(":", 1)[0]]) for key, value in saved.items()}
    load_optimizer(saved, module, optimizer.optimizer)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _engine_moments(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_optimizer_state

    steps = _flat_states(optimizer)
    if not steps:
        return {}
    _link(optimizer.optimizer)
    count = torch.as_tensor(float(steps[0]["step"]))
    main = PartialState().is_main_process
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for slot in _MOMENTS:
                whole = safe_get_full_optimizer_state(parameter, slot)
                if main:
                    found[f"{name}:{slot}"] = whole.detach().float().cpu().clone()
            if main:
                found[f"{name}:step"] = count.clone()
    return found


def _load_engine_moments(model: nn.Module, optimizer: Any, saved: dict[str, Tensor]) -> None:
    zero = optimizer.optimizer
    count = int(next(value for key, value in saved.items() if key.endswith(":step")))
    integer = type(zero.optimizer).__name__ == "DeepSpeedCPUAdam"  # it counts in Python
    for flat in _flat_parameters(zero):
        state = zero.optimizer.state[flat]
        state["step"] = count if integer else torch.tensor(float(count), device=flat.device)
        for slot in _MOMENTS:
            state[slot] = torch.zeros_like(flat.data)
    _link(zero)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for slot in _MOMENTS:
                _set_moment(parameter, saved[f"{name}:{slot}"].to(parameter.device), slot)


def _set_moment(parameter: Any, whole: Tensor, slot: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_tensor"):
        safe_set_full_optimizer_state(parameter, whole, slot)
        return
    state = PartialState()
    own = master_weights.shard(whole, parameter, state.process_index, state.num_processes)
    safe_set_local_optimizer_state(parameter, own, slot)


def _flat_parameters(zero: Any) -> list[Tensor]:
    """The flat float32 shares that the inner optimiser updates."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return list(zero.fp32_partitioned_groups_flat)
    return list(zero.single_partition_of_fp32_groups)


def _link(zero: Any) -> None:
    """ZeRO-1 and 2 keep views of the flat state for each parameter, made once; made again they are of what is there."""
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _flat_states(optimizer: Any) -> list[dict[str, Any]]:
    zero = optimizer.optimizer
    return [zero.optimizer.state[flat] for flat in _flat_parameters(zero) if zero.optimizer.state.get(flat)]
