"""What differs where several processes train together (`accelerate launch`), for stages on Hugging Face trainers."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from rlhf_e2h.runner.config import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


def world_size() -> int:
    """Processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one process that writes and reports."""
    return int(os.environ.get("RANK", "0")) == 0


TIMEOUT = "E2H_TIMEOUT_HOURS"


def collective_timeout() -> timedelta:
    """How long a process waits for the others before it gives them up.

    Half an hour, the default of the libraries, is too short: one process may save a large checkpoint, grade a bank or
    train for the others, which wait meanwhile.

    Raises:
        ConfigError: E2H_TIMEOUT_HOURS is not a positive number.
    """
    text = os.environ.get(TIMEOUT, "12")
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 10_000:
        raise ConfigError(f"{TIMEOUT} is {text!r}; give a number of hours above 0, for example 12")
    return timedelta(hours=hours)


def launched_with_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def launched_with_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def device_arguments() -> dict[str, Any]:
    """What `TrainingArguments` has to be told about the machine."""
    import torch

    waits = {"ddp_timeout": int(collective_timeout().total_seconds())}
    if torch.cuda.is_available():
        return {"use_cpu": False, **waits}
    # processes on a CPU have to be told how to find each other; without `use_cpu` bf16 would be refused
    together = {"ddp_backend": "gloo"} if world_size() > 1 else {}
    return {"use_cpu": True, **together, **waits}


def join() -> Any:
    """This process among those that were started together, before there is a trainer: see `blocks.Rank`.

    Raises:
        ConfigError: fewer processes see each other than were started.
    """
    from reward_models.model import pick_device

    if world_size() == 1:
        return SimpleNamespace(num_processes=1, process_index=0, device=pick_device(None))
    from transformers import TrainingArguments

    # made as trainers make it from their arguments, which then find it made
    state = TrainingArguments(report_to="none", **device_arguments()).distributed_state
    forget_divided_loading()
    _check_count(state)
    return state


def check_together(accelerator: Accelerator) -> None:
    """Processes that do not see each other would each train alone, and all write to one folder.

    Raises:
        ConfigError: fewer processes train together than were started, or FSDP was asked for and is not used.
    """
    if launched_with_fsdp() and accelerator.distributed_type.value != "FSDP":
        raise ConfigError(
            f"the launch file asks for FSDP, but Accelerate uses {accelerator.distributed_type.value}: its FSDP needs "
            "GPUs; on CPUs take launch/ddp_cpu.yaml or launch/zero3.yaml"
        )
    _check_count(accelerator)


def _check_count(place: Any) -> None:
    if place.num_processes != world_size():
        raise ConfigError(
            f"{world_size()} processes were started, but each sees {place.num_processes} "
            f"({place.distributed_type.value}): they would train alone; check the launch file"
        )


def size_buckets(accelerator: Accelerator, model: Any) -> None:
    """DeepSpeed's buffers in proportion to the model: an eighth of it, at most DeepSpeed's own sizes.

    Those are made for models of billions of weights (5e8 gradients in a bucket, 1e9 weights that ZeRO-3
    keeps gathered); below that ZeRO-3 would divide nothing. Call it before the model is prepared.
    """
    if not launched_with_deepspeed():
        return
    sizes = [getattr(p, "ds_numel", p.numel()) for p in model.parameters()]
    share = max(sum(sizes) // 8, max(sizes))
    zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    zero["reduce_bucket_size"] = min(500_000_000, share)
    if zero["stage"] == 3:
        zero["stage3_max_live_parameters"] = zero["stage3_max_reuse_distance"] = min(1_000_000_000, share)
        zero["stage3_prefetch_bucket_size"] = min(50_000_000, share)
        zero["stage3_param_persistence_threshold"] = min(100_000, share // 64)


def forget_divided_loading() -> None:
    """After a ZeRO-3 trainer, transformers would keep sharding the weights of every model it loads."""
    if launched_with_deepspeed():
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()


def release_memory() -> None:
    """Give back what models that are gone have left, for the next model or for another process on the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def wait_for_all() -> None:
    """Go on when all processes are here; at once in a single one."""
    torch = sys.modules.get("torch")  # what was never loaded has started no group
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def leave(code: int) -> NoReturn:
    """End this process. One of several is ended before interpreter shutdown.

    torch 2.13's gloo threads ask for Python's lock when they let go of the tensors of a collective. One that asks after
    Python has begun to end aborts the process ("terminate called without an active exception", now and then on a
    busy machine), and the launcher then stops the other processes, the one that writes the results among them.
    """
    if world_size() == 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def whole_model(trainer: Any) -> Any:
    """The trained model with all its weights, on the main process. Every process must call it.

    Where weights are sharded (ZeRO-3, FSDP), or are bf16 roundings of what DeepSpeed trains, the main process gets a
    float32 copy on the CPU, and the others what they hold.
    """
    from accelerate.utils import DistributedType

    accelerator: Accelerator = trainer.accelerator
    bare = accelerator.unwrap_model(trainer.model)
    zero3 = (
        accelerator.distributed_type == DistributedType.DEEPSPEED
        and int(accelerator.state.deepspeed_plugin.zero_stage) == 3
    )
    rounded = accelerator.distributed_type == DistributedType.DEEPSPEED and accelerator.mixed_precision == "bf16"
    if not zero3 and not rounded and accelerator.distributed_type != DistributedType.FSDP:
        return bare
    weights = accelerator.get_state_dict(trainer.model_wrapped)
    if rounded:
        from reward_models.master_weights import with_master_weights

        weights = with_master_weights(weights or {}, bare, is_main())
    if not is_main():
        return bare
    copy = _empty_copy(bare)
    copy.load_state_dict({name: value.float() for name, value in weights.items()})
    return copy


def _empty_copy(model: Any) -> Any:
    if not hasattr(model, "get_base_model"):
        return type(model)(model.config)
    from peft import get_peft_model

    base = model.get_base_model()
    return get_peft_model(type(base)(base.config), model.active_peft_config)
