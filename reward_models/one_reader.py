"""One rank reads a model whose weights FSDP or ZeRO-3 shards; the others get theirs from it.

Until then the others hold parameters without values (torch's `meta` device), on which everything works that is done to
a model before training: heads, adapters, frozen parts. Then rank 0 sends one parameter after the other, and each rank
keeps its shard. So the ranks of a machine hold one whole copy of the weights together, and not one each.

transformers' `cpu_ram_efficient_loading` would fill the parameters of the other ranks with zeros while it loads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_ONE_READS: ContextVar[bool] = ContextVar("one_reads", default=False)


def sharding() -> str:
    """`fsdp` or `zero3` where the launch file shards weights among several processes; else the empty string.

    Also empty where weights cannot be sent so: the first version of FSDP, weights on NVMe, and a launch file that names
    a DeepSpeed configuration of its own. There each rank reads.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "fsdp" if os.environ.get("FSDP_VERSION", "2") == "2" else ""
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    zero3 = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    nvme = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE") == "nvme"
    return "zero3" if deepspeed and zero3 and not nvme else ""


@contextlib.contextmanager
def one_rank_reads() -> Iterator[None]:
    """Inside, rank 0 alone reads a model, if its weights will be sharded. For models that are trained, or a reference.

    What the other ranks hold must be sent (`ready`, `shard_zero3`, `filled`) before it computes anything.
    """
    if sharding() == "zero3":  # else transformers would shard what it loads after a first trainer, if all ranks read it
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    token = _ONE_READS.set(bool(sharding()))
    try:
        yield
    finally:
        _ONE_READS.reset(token)


def reads() -> bool:
    """Whether this rank gets the values of what it loads now."""
    return not _ONE_READS.get() or os.environ.get("RANK", "0") == "0"


def placement() -> dict[str, Any]:
    """Arguments of `from_pretrained`: on ranks that do not read, a model without values."""
    return {} if reads() else {"device_map": "meta"}


def filled(module: nn.Module, device: torch.device, known: dict[nn.Parameter, nn.Parameter]) -> Iterator[nn.Parameter]:
    """Parameters of `module`, each with the values of rank 0, on `device`, as it is needed; shards are left out.

    Every rank must take all of them. `known`: parameters that were sent before, by what stood in their place; one that
    stands in two places (tied embeddings) is sent once.
    """
    return _replaced(module, known, lambda parameter: _sent_parameter(parameter, device))


def _replaced(
    module: nn.Module, known: dict[nn.Parameter, nn.Parameter], make: Callable[[nn.Parameter], nn.Parameter]
) -> Iterator[nn.Parameter]:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if isinstance(parameter, DTensor) or hasattr(parameter, "ds_id"):
                continue
            first = parameter not in known
            if first:
                known[parameter] = make(parameter)
            found = known[parameter]
            known[found] = found
            part.register_parameter(name, found)
            if first:
                yield found


def send_buffers(module: nn.Module, device: torch.device) -> None:
    """Put the buffers of rank 0 on `device`, on every rank."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False):
            part._buffers[name] = _sent(buffer, device)


def shard_zero3(model: nn.Module, zero_optimization: Mapping[str, Any], dtype: torch.dtype | None) -> None:
    """Shard a model as DeepSpeed would when it starts, but parameter by parameter, from rank 0.

    Parameters may be others afterwards: make the optimiser after it.

    Args:
        zero_optimization: of DeepSpeed's configuration.
        dtype: of floating-point weights in training; None: as they are.
    """
    import deepspeed

    if dtype is not None:
        for parameter in model.parameters():
            if parameter.is_floating_point() and not hasattr(parameter, "ds_id"):
                parameter.data = parameter.data.to(dtype)
    zero = {name: value for name, value in zero_optimization.items() if value != "auto"}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    init = deepspeed.zero.Init(module=nn.Module(), config_dict_or_path=config, dtype=dtype)
    send_buffers(model, init.local_device)
    for parameter in filled(model, init.local_device, {}):
        init._convert_to_zero_parameters([parameter])


def ready(trainer: Any) -> None:
    """Before a Hugging Face trainer trains: its model is sharded, or Accelerate is told to send it as it shards it."""
    kind, model, accelerator = sharding(), trainer.model, trainer.accelerator
    if kind == "zero3":
        zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        shard_zero3(model, zero, torch.bfloat16 if accelerator.mixed_precision == "bf16" else None)
    if kind != "fsdp":
        return
    send_buffers(model, accelerator.device)
    if model.state_dict().keys() & {name for name, _ in model.named_buffers()}:  # Accelerate cannot send those
        for parameter in filled(model, accelerator.device, {}):
            parameter.data = parameter.data.cpu()
        return
    accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = True
    for _ in _replaced(model, {}, _hollow):
        pass


def _sent_parameter(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    values = _sent(parameter.data, device)
    if parameter.is_meta:
        return _with_values(parameter, values)
    parameter.data = values
    return parameter


def _hollow(parameter: nn.Parameter) -> nn.Parameter:
    """One number in the place of a parameter without values, which gives it an address: by those Accelerate finds again
    what an optimiser trains, and all on `meta` have the same."""
    if not parameter.is_meta:
        return parameter
    return _with_values(parameter, torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape))


def _with_values(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    found = nn.Parameter(values, requires_grad=parameter.requires_grad)
    found.__dict__.update(parameter.__dict__)
    return found


def _sent(values: Tensor, device: torch.device) -> Tensor:
    values = torch.empty_like(values, device=device) if values.is_meta else values.to(device).contiguous()
    torch.distributed.broadcast(values.reshape(-1).view(torch.uint8), 0)
    return values
