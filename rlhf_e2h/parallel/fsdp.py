"""PPO's FSDP: torch's `fully_shard` shards weights, gradients and Adam's moments among the processes.

Accelerate has an FSDP of its own, for GPUs only; this one is the same on CPUs (gloo) and on GPUs. Policy, value model
and reference are sharded each by itself: sampling calls the policy alone, and FSDP takes what is called first for its
root.

Gradients are added up over the processes after every micro-batch, which keeps a share of them. FSDP could wait for the
last micro-batch instead; until then each process would hold the gradients of the whole model.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from reward_models.model import layer_stack
from reward_models.one_reader import filled, send_buffers


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Divide a model, that of rank 0, in place: each of its layers, and the rest.

    Its parameters are others afterwards.
    """
    policy = MixedPrecisionPolicy()
    if accelerator.mixed_precision == "bf16":
        # Autocast would keep a bf16 copy of each gathered matrix until the backward pass. Layers that are gathered in
        # bf16 need none; their inputs stay float32, as under autocast, and so do embeddings, head and gradients.
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    # the value model's logits are a view, of which FSDP warns that they must not be changed in place; nobody does
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor", UserWarning)
    _shard(model, accelerator, policy, MixedPrecisionPolicy())


def _shard(
    model: nn.Module, place: Accelerator | PartialState, layers: MixedPrecisionPolicy, rest: MixedPrecisionPolicy
) -> None:
    mesh = init_device_mesh(place.device.type, (place.num_processes,))
    send_buffers(model, place.device)
    known: dict[nn.Parameter, nn.Parameter] = {}
    for part in (*layer_stack(model), model):
        for _ in filled(part, place.device, known):
            pass
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=rest if part is model else layers)


def shard_frozen(model: nn.Module, accelerator: Accelerator) -> None:
    """The same for a model that never sees a backward pass."""
    shard(model, accelerator)
    _forget_passes(model)


def shard_reference(model: nn.Module, place: PartialState, bf16: bool) -> None:
    """The same for a reference beside a policy that Accelerate shards, in the precision in which that computes."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    if bf16:
        plugin.set_mixed_precision("bf16")
    policy = plugin.mixed_precision_policy or MixedPrecisionPolicy()
    _shard(model, place, policy, policy)
    _forget_passes(model)


def _forget_passes(model: nn.Module) -> None:
    # FSDP takes a note of every forward pass, for a backward pass to strike out
    model.register_forward_hook(lambda one, *_: cast(FSDPModule, one).reset_iter_state())


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, a sharded model has all its weights, and its forward passes wait for no other process.

    Processes may make different numbers of passes. FSDP notes them and gathers ahead by its notes in the next backward
    pass, but not beyond the pass that this belongs to: before that stands the model itself, which is whole by then.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def plain(tensor: Tensor) -> Tensor:
    """A tensor with all of its values on this process. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """All values, on the CPU, if `keep`; else nothing. Gathered one by one; every process must call it."""
    found = {}
    for name, tensor in tensors.items():
        values = plain(tensor.detach())
        if keep:
            found[name] = values.cpu()
    return found


def like(values: Tensor, parameter: Any) -> Tensor:
    """The shard of `values` of this rank, sharded as `parameter` is; a step counter stays as it is."""
    if values.shape != parameter.shape:
        return values
    values = values.to(parameter.device)
    # all processes have read the same file: nothing to send
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)
