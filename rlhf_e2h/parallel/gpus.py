"""One GPU a process: which ones there are, and which a process may use. Nothing here starts CUDA.

A process that sees several GPUs would train on all of them with `torch.nn.DataParallel`, on a batch that is as many
times too large. Several GPUs are used by `--launch` (one process each) or by `jobs` (one stage each).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import MutableMapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def visible() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()  # asks the driver's library; a process that asks CUDA would hold memory on a GPU
    text = os.environ.get(VISIBLE)
    named = [name.strip() for name in text.split(",")] if text else [str(index) for index in range(count)]
    return named[:count]


def keep_one() -> str | None:
    """Where no launcher has given this process its GPU, leave it the first; says so if there are more.

    To be called before CUDA is started, after which it has no effect.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    found = visible()
    if len(found) < 2:
        return None
    os.environ[VISIBLE] = found[0]
    return (
        f"{len(found)} GPUs are visible, one is used ({found[0]}); `--launch launch/ddp.yaml` uses all for a stage, "
        "`jobs=N` runs N stages at once on a GPU each"
    )


class Shared:
    """GPUs among processes that run at the same time: each new one gets a GPU that fewest others use."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self._users = list(names), Counter[str]()

    def take(self) -> str | None:
        """A GPU for one process, or None where there are none."""
        if not self.names:
            return None
        name = min(self.names, key=lambda one: self._users[one])
        self._users[name] += 1
        return name

    def give_back(self, name: str | None) -> None:
        if name is not None:
            self._users[name] -= 1


def set_allocator(environment: MutableMapping[str, str]) -> None:
    """Let torch's allocator grow its blocks, since texts of all lengths would break a large memory to pieces; not where
    the user has said something about it."""
    if not any(name in environment for name in _ALLOCATOR):
        environment[_ALLOCATOR[0]] = "expandable_segments:True"


def describe() -> str:
    """The GPUs of this machine in words, from nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
    return ", ".join(names) or "no GPU"
