"""Peaks of memory by phase, on a GPU or a CPU, while PPO trains."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rlhf_e2h.rl import ppo

CUDA = torch.cuda.is_available()


def reset() -> None:
    """Set the mark of the peak back to what is held."""
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes: of tensors on a GPU, of the process on a CPU."""
    if CUDA:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def tidy() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def held() -> int:
    """Bytes of all tensors that are alive."""
    tidy()
    if CUDA:
        return torch.cuda.memory_allocated()
    found = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor) and item.device.type == "cpu":
            with contextlib.suppress(RuntimeError, NotImplementedError):  # tensors without memory of their own
                found[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return sum(found.values())


class Meter:
    """The highest peak of each phase of `train_ppo`, beyond what was there before."""

    def __init__(self) -> None:
        tidy()
        reset()
        self.before, self.found = peak(), {}

    def note(self, name: str) -> None:
        self.found[name] = max(self.found.get(name, 0), peak() - self.before)
        reset()

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def measured(*args: Any, **options: Any) -> Any:
            reset()
            result = function(*args, **options)
            self.note(name)
            return result

        return measured

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the phases of PPO are measured."""
        originals, step = (ppo.sample_step, ppo.evaluate, ppo.save), torch.optim.AdamW.step

        def stepped(optimizer: Any, closure: Any = None) -> Any:
            self.note("forward and backward")
            result = step(optimizer, closure)
            self.note("optimiser step")
            return result

        ppo.sample_step = self.wrap(originals[0], "rollout")
        ppo.evaluate = self.wrap(originals[1], "log-probabilities")
        ppo.save = self.wrap(originals[2], "checkpoint")
        torch.optim.AdamW.step = stepped  # type: ignore[method-assign]
        try:
            yield
        finally:
            ppo.sample_step, ppo.evaluate, ppo.save = originals
            torch.optim.AdamW.step = step  # type: ignore[method-assign]
