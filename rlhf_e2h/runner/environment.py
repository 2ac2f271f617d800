"""Where a run happened: versions, machine, git state."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from rlhf_e2h.parallel import gpus

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "sympy", "math-verify", "rlhf_e2h")


def describe() -> dict[str, Any]:
    """Versions, machine and commit, as plain data for run.json."""
    return {"versions": _versions(), "machine": _machine(), "git": _git()}


def forget_accelerate_state() -> None:
    """Accelerate keeps precision and accumulation of the first trainer of a process; later ones must not inherit them.

    Without this a PPO stage that follows an SFT stage in one process scales its gradients by the SFT stage's settings.
    """
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state()
    GradientState._reset_state()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} {platform.machine()} CPU cores, {memory:.0f} GiB memory, {gpus.describe()}"


def _git() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        status = git("status", "--porcelain")
        return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(status)}
    except FileNotFoundError:
        return {"commit": None, "uncommitted_changes": None}
