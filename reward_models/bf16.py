"""What a setting `bf16` means on this machine: a processor without instructions for bfloat16 is faster in float32."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from reward_models.settings import Bf16

log = logging.getLogger(__name__)


def in_bf16(asked: Bf16) -> bool:
    """Whether to compute in bfloat16 on this machine, of which `auto` asks whether it has instructions for it.

    Where a CPU has none, `True` is done as asked, and a warning says what it costs.
    """
    if asked == "auto":
        return machine_computes_bf16()
    if asked and not torch.accelerator.is_available() and not cpu_computes_bf16():
        _warn_slow()
    return asked


@functools.cache
def _warn_slow() -> None:
    log.warning(
        "bf16 is true, and this processor has no instructions for bfloat16: matrix products take up to a hundred times "
        "as long as in float32; use bf16=auto or bf16=false"
    )


def machine_computes_bf16() -> bool:
    """Whether the GPU, or without one the CPU, has instructions for products of bfloat16 matrices."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_computes_bf16()


@functools.cache
def cpu_computes_bf16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 matrices; without them bfloat16 is slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 has none
    names = ("amx_bf16", "amx_tile", "avx512_bf16", "bf16", "sve_bf16")
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(capabilities.get(name) for name in names) or any(getattr(torch.cpu, a, bool)() for a in asked)
