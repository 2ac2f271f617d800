"""What differs where DeepSpeed divides states, gradients or weights among processes. Nothing here runs without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
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
