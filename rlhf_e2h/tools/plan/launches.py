"""Launch files as parallelism strategies."""

from __future__ import annotations

from pathlib import Path

from rlhf_e2h.runner.config import ConfigError, read_yaml
from rlhf_e2h.tools.plan.memory import Form

_GIB = {"G": 1e9, "GB": 1e9, "GIB": 2**30, "M": 1e6, "MB": 1e6, "MIB": 2**20, "": 1.0}
# What a step costs beside arithmetic, the least first: nothing; gradients added; the same with sharded states; weights
# gathered twice; and states carried to the CPU and back.
_COST = {"single": 0, "ddp": 1, "zero1": 2, "zero2": 3, "fsdp": 4, "zero3": 5}


def read_form(file: Path, gpus: int) -> Form:
    """The parallelism strategy of an accelerate configuration, on `gpus` processes (one if it is for one)."""
    data = read_yaml(file)
    kind = str(data.get("distributed_type", "NO")).upper()
    if kind in ("NO", "FALSE"):
        return Form(file.stem)
    if kind == "DEEPSPEED":
        settings = data.get("deepspeed_config") or {}
        return Form(
            file.stem,
            gpus,
            "deepspeed",
            int(settings.get("zero_stage", 2)),
            settings.get("offload_optimizer_device", "none") != "none",
            settings.get("offload_param_device", "none") != "none",
        )
    if kind in ("MULTI_GPU", "MULTI_CPU", "FSDP"):
        return Form(file.stem, gpus, "fsdp" if kind == "FSDP" else "ddp")
    raise ConfigError(
        f"{file}: distributed_type {kind!r} is not known to `e2h plan`; known: NO, MULTI_GPU, DEEPSPEED, FSDP"
    )


def read_forms(folder: Path, gpus: int) -> list[Form]:
    """The parallelism strategies of a folder that use this many GPUs, cheapest first; files for CPUs are skipped."""
    files = [file for file in sorted(folder.glob("*.yaml")) if not read_yaml(file).get("use_cpu", False)]
    if not files:
        raise ConfigError(f"{folder}: no launch files here; give the folder with --launches")
    return sorted((read_form(file, gpus) for file in files), key=cost)


def cost(form: Form) -> tuple[int, int]:
    """Sort key: what a form costs beside arithmetic."""
    name = f"zero{form.zero}" if form.kind == "deepspeed" else form.kind
    return (int(form.offload_optimizer) + int(form.offload_weights), _COST[name])


def parse_size(text: str) -> float:
    """Bytes of `80G`, `80GiB`, `24000M`.

    Raises:
        ConfigError: not a size.
    """
    number = text.strip().upper().rstrip("GMIB")
    unit = text.strip().upper()[len(number) :]
    try:
        size = float(number) * _GIB[unit]
    except (ValueError, KeyError):
        raise ConfigError(f"{text!r} is not a size of memory; write 80G, 80GiB or 24000M") from None
    if size <= 0:
        raise ConfigError(f"a memory of {text!r} holds nothing; write 80G, for example")
    return size
