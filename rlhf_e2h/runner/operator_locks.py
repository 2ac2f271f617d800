"""Locks of torch's compiler of extensions, which DeepSpeed uses at its first start.

A start that is killed while operators compile leaves its lock behind, and every later start waits for it for ever,
without a word.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf_e2h.runner.config import ConfigError


def build_folder() -> Path:
    """Where torch compiles extensions."""
    from torch.utils.cpp_extension import get_default_build_root

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def abandoned(root: Path) -> list[Path]:
    """Lock files below the build folder that no process of this machine holds open."""
    locks = [path for depth in ("*/lock", "*/*/lock") for path in root.glob(depth)]
    if not locks:
        return []
    held = set(_open_files())
    return sorted(path for path in locks if str(path.resolve()) not in held)


def check() -> None:
    """
    Raises:
        ConfigError: a lock that nobody holds, at which DeepSpeed would wait for ever.
    """
    found = abandoned(build_folder())
    if found:
        raise ConfigError(f"DeepSpeed would wait for ever: {describe(found)}; {advice(found)}")


def describe(locks: list[Path]) -> str:
    age = max(0.0, time.time() - min(path.stat().st_mtime for path in locks if path.exists())) / 60
    return f"{', '.join(map(str, locks))}: left {age:.0f} min ago by a start that was killed while it compiled"


def advice(locks: list[Path]) -> str:
    return f"remove it (rm {' '.join(map(str, locks))}), unless another machine compiles there now"


def _open_files() -> Iterator[str]:
    """Paths of the files that processes have open, as far as this user may look."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for link in folder.iterdir():
                yield os.readlink(link)
        except OSError:
            continue  # the process has ended, or is another user's
