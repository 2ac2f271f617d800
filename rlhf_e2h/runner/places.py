"""Where models are that outputs of stages name by path: a run folder may have come from another machine.

Outputs are not written anew there, since what they are hashed to would change. A stage of the same run is found beside
the one that names it; a folder from outside by its digest, under which `places.json` of the run says where it is here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from rlhf_e2h.runner.run_files import read_done, write_json

PLACES = "places.json"


def name_of(model: Path, out: Path, run_folder: Path) -> str:
    """What an output in `out` calls a model: relative where both are in one run, which may be moved as a whole."""
    inside = model.is_absolute() and model.is_relative_to(run_folder.resolve())
    return os.path.relpath(model, out.resolve()) if inside else str(model)


def place_of(folder: str | Path, name: str) -> str:
    """The model that the output of the stage in `folder` calls `name`; the name itself where nothing is found."""
    folder, path = Path(folder).resolve(), Path(name)
    if name.startswith(".."):
        return str((folder / path).resolve())
    if not path.is_absolute() or path.exists() or len(folder.parents) < 2:
        return name
    run = folder.parents[1]
    beside = run.joinpath(*path.parts[-2:])  # STAGE/IDENTITY
    if beside.is_dir():
        return str(beside)
    inputs = (read_done(folder) or {}).get("inputs") or {}
    digest = digest_of(name, {reference: digests[0] for reference, digests in inputs.items()})
    return known_places(run).get(digest or "", name)


def digest_of(name: str, inputs: Mapping[str, str]) -> str | None:
    """The digest of the input (reference -> digest) that an output calls `name`, an absolute path, else None."""
    for reference, digest in inputs.items():
        parts = Path(reference.removeprefix("asset:")).parts
        tail = tuple(part for part in parts if part not in ("/", "~", "..", "."))
        if not reference.startswith("@") and tail and Path(name).parts[-len(tail) :] == tail:
            return digest
    return None


def known_places(run_folder: Path) -> dict[str, str]:
    """Digest of a folder from outside the run -> where it is on this machine."""
    try:
        known: dict[str, str] = json.loads((run_folder / PLACES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return known


def note_places(run_folder: Path, found: dict[str, str]) -> None:
    """Write down where folders from outside are; the caller holds the lock of the run folder."""
    known = known_places(run_folder)
    if known | found != known:
        write_json(run_folder / PLACES, known | found)
