"""Room on the disk: what is free, and the sentence where it is not enough."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlhf_e2h.runner.config import ConfigError


def check_room(what: str, needed: float, folder: Path, free: float | None = None) -> None:
    """See that `needed` bytes can be written below `folder`, which need not be there yet.

    Args:
        free: bytes that may be written; what is free on its disk if not given.

    Raises:
        ConfigError: they cannot.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    free = shutil.disk_usage(place).free if free is None else free
    if needed > free:
        raise ConfigError(f"{what}: needs {size(needed)}, and {size(free)} are free on the disk of {folder}; make room")


def size(value: float) -> str:
    """Bytes with a unit: 1.5 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.0f} kB"
