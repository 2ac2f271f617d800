"""Starting Accelerate on any machine, and moving plain data between processes without pickle."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, gather, pad_across_processes

from reward_models.bf16 import in_bf16
from reward_models.settings import Bf16
from rlhf_e2h.parallel.processes import collective_timeout
from rlhf_e2h.runner.environment import forget_accelerate_state

T = TypeVar("T")
_NOTHING: Any = object()


def start_accelerator(bf16: Bf16 = False) -> Accelerator:
    """An accelerator over all processes of this launch, on GPUs or on CPUs.

    Raises:
        RuntimeError: several processes were started, but they do not see each other.
    """
    forget_accelerate_state()
    # Without cpu=True, processes without a GPU would each train alone, and all write to the same folder.
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    cpu = not torch.accelerator.is_available()
    backend: dict[str, Any] = {"backend": "gloo"} if cpu and deepspeed else {}
    with _without_fsdp():
        accelerator = Accelerator(
            cpu=cpu and not deepspeed,
            mixed_precision="bf16" if in_bf16(bf16) else "no",
            kwargs_handlers=[InitProcessGroupKwargs(**backend, timeout=collective_timeout())],
        )
    if deepspeed:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        # Under ZeRO-3 transformers would divide weights while it loads them; heads are set and checkpoints read after
        # that, which needs full weights. They are sharded when Accelerate prepares the models.
        unset_hf_deepspeed_config()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise RuntimeError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes} "
            f"({accelerator.distributed_type}); check the launch file"
        )
    return accelerator


@contextlib.contextmanager
def _without_fsdp() -> Iterator[None]:
    """Accelerate's FSDP would divide the model a second time, and only on GPUs; PPO has its own, see `fsdp.py`."""
    asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ["ACCELERATE_USE_FSDP"] = asked
            # transformers would load weights in one process and leave them empty in the others, for Accelerate to fill
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def gather_json(place: Accelerator | PartialState, value: Any) -> list[Any]:
    """The JSON values of all processes, in order of rank, on every process.

    Floats survive exactly: JSON writes the shortest text that reads back as the same double.
    """
    if place.num_processes == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(place.device)
    sizes = gather(torch.tensor([len(data)], device=place.device)).tolist()
    padded = pad_across_processes(data, dim=0).unsqueeze(0)
    rows = gather(padded).cpu().numpy()
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def shard(items: Sequence[T], place: Accelerator | PartialState) -> Sequence[T]:
    """The items of this process: every n-th, so that a list in order of difficulty gives each some of all."""
    return items[place.process_index :: place.num_processes]


def unsharded(parts: Sequence[Sequence[T]]) -> list[T]:
    """The items of all processes, one list a rank, in the order that they had before `shard`."""
    found: list[T] = []
    for items in zip_longest(*parts, fillvalue=_NOTHING):
        found += [item for item in items if item is not _NOTHING]
    return found
