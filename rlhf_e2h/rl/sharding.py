"""What differs where DeepSpeed divides states, gradients or weights among processes. Nothing here runs without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel


def uses_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def weights_are_divided(accelerator: Accelerator) -> bool:
    """ZeRO-3: a parameter is whole only inside `whole_weights`."""
    if not uses_deepspeed(accelerator):
        return False
    return int(accelerator.state.deepspeed_plugin.zero_stage) == 3


def configure(accelerator: Accelerator, micro_batch: int, accumulation: int, max_grad_norm: float) -> None:
    """Tell Accelerate, and DeepSpeed if it is used, what our batch is made of; there is no data loader to ask.

    Raises:
        ValueError: a launch form under which PPO does not run.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError("PPO does not run under FSDP; use launch/zero2.yaml or launch/zero3.yaml, or launch/ddp.yaml")
    accelerator.gradient_accumulation_steps = accumulation
    accelerator.step = 0  # micro-batches are counted from here; what an earlier training left would shift every update
    if uses_deepspeed(accelerator):
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = micro_batch
        config["gradient_accumulation_steps"] = accumulation
        # one norm for policy and value model together: DeepSpeed clips inside its own step
        config["gradient_clipping"] = max_grad_norm


def prepare_reference(reference: PreTrainedModel, accelerator: Accelerator) -> Any:
    """The frozen reference where it is needed: on the device, or divided like the rest under ZeRO-3."""
    reference.eval().requires_grad_(False)
    if weights_are_divided(accelerator):
        from trl.models.utils import prepare_deepspeed

        return prepare_deepspeed(reference, accelerator)
    return reference.to(accelerator.device)


@contextlib.contextmanager
def whole_weights(engine: nn.Module, part: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Inside, `part` (of the module that `engine` trains) has all its weights on every process.

    They are gathered once, and DeepSpeed's hooks are off: token after token would otherwise gather layer after layer,
    and processes whose completions end early would leave the others waiting.
    """
    if not weights_are_divided(accelerator):
        yield
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(list(part.parameters())):
        remove_hooks(engine)
        try:
            yield
        finally:
            add_hooks(engine)


def whole_copy(engine: nn.Module, part: nn.Module, accelerator: Accelerator) -> dict[str, Tensor]:
    """All weights of `part` on the CPU of the main process; empty on the others. Every process must call it."""
    with whole_weights(engine, part, accelerator):
        if not accelerator.is_main_process:
            return {}
        return {name: tensor.detach().cpu().clone() for name, tensor in part.state_dict().items()}


_MOMENTS = ("exp_avg", "exp_avg_sq")


def engine_moments(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Adam's state of DeepSpeed's divided optimiser, whole, as `parameter:slot`; on the main process's CPU, else empty.

    Every process must call it. The same form as without DeepSpeed, so a run may go on under another launch file.
    """
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


def load_engine_moments(model: nn.Module, optimizer: Any, saved: dict[str, Tensor]) -> None:
    """Put `engine_moments` (or the state of an undivided Adam) back into DeepSpeed's optimiser."""
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
    # DeepSpeed's own function fails under ZeRO-3 where a weight does not divide by the processes
    share, processes, rank = parameter.ds_tensor.numel(), PartialState().num_processes, PartialState().process_index
    padded = whole.new_zeros(share * processes)
    padded[: whole.numel()] = whole.flatten()
    safe_set_local_optimizer_state(parameter, padded[rank * share : (rank + 1) * share], slot)


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
