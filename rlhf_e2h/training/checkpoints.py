"""Checkpoints of Hugging Face trainers in a killed stage: which are whole, and what a full disk leaves behind."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from reward_models import causes
from rlhf_e2h.runner.config import ConfigError

log = logging.getLogger(__name__)
STATE = "trainer_state.json"  # the Trainer writes it last


def checkpoint_to_resume(folder: Path) -> str | None:
    """The newest whole checkpoint below `folder`; half-written ones are skipped with a warning."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        reason = damage(path)
        if reason is None:
            return str(path)
        log.warning("%s is skipped: %s", path, reason)
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None. Weights are opened, which finds files that were cut short."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE}, which is written last, is missing or cut short"
    for file in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is cut short"
    for file in checkpoint.rglob("*"):
        if file.is_file() and file.stat().st_size == 0:
            return f"{file.name} is empty"
    return None


def remove_damaged(folder: Path) -> None:
    """Make room: a half-written checkpoint would be counted as one of those to keep."""
    for path in folder.glob("checkpoint-*"):
        if damage(path) is not None:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, however a library reports it, into one sentence.

    Raises:
        ConfigError: the disk is full, or a file would exceed a limit; finished checkpoints are untouched.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_full(error):
            raise
        remove_damaged(folder)
        raise no_room(folder, error) from error


def no_room(folder: Path, error: BaseException) -> ConfigError:
    """What to say where the disk is full."""
    return ConfigError(
        f"no room to write below {folder} ({error}); the last whole checkpoint is kept: make room and start the same "
        "command again, or give another folder with runs=PATH"
    )


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or what led to it, is a disk without room."""
    while error is not None:
        if causes.is_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False
