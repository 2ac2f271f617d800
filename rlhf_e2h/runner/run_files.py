"""The files that describe a run: JSON written whole or not at all, digests of content, the lock of a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_e2h.runner.config import ConfigError

DONE = "done.json"
SETTINGS = "settings.json"
ERRORS = "error.txt"  # the traceback of what stopped a stage; gone when the stage is run again
SCRATCH = "_partial"  # what a killed stage left for its own resumption; removed on completion
RECORDS = (DONE, SETTINGS, "metrics.jsonl")  # of a stage about itself; they are no output


def write_json(path: Path, data: Any) -> None:
    """Atomic, sorted, readable."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_done(folder: Path) -> dict[str, Any] | None:
    """The completion record of a stage folder, or None if it is unfinished."""
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """sha256 of every output file below a stage folder, by relative path; the stage's own records are left out."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    names = {f.relative_to(folder).as_posix(): f for f in files}
    skip = (SCRATCH, "wandb", "tensorboard")
    return {n: hash_file(f) for n, f in names.items() if n not in RECORDS and n.split("/")[0] not in skip}


def hash_data(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def lock(run_folder: Path) -> Iterator[None]:
    """Hold the run folder for this process.

    Raises:
        ConfigError: another process holds it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_folder}: in use by process {holder}; wait for it, stop it, or give another folder with runs=PATH"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
