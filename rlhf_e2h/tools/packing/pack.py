"""`e2h pack`: the finished stages of a run folder in one archive, with the sha256 of every file."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_e2h.runner.config import ConfigError, nearest
from rlhf_e2h.runner.disk import check_room
from rlhf_e2h.runner.places import digest_of
from rlhf_e2h.runner.progress import Bar, Pulse, progress_bar
from rlhf_e2h.runner.run_files import DONE, RECORDS, hash_file, lock, read_done
from rlhf_e2h.tools.packing import manifest as form
from rlhf_e2h.tools.packing.manifest import HashedFile, Manifest, Packed
from rlhf_e2h.tools.packing.merging import adapter_base, base_of, difference, weight_files
from rlhf_e2h.training.checkpoints import disk_errors


@dataclass
class Pack:
    """What was written: the manifest, what its weights are by stage folder, and what was left out."""

    manifest: Manifest
    digest: str
    size: int  # bytes of the archive
    weights: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)  # stage folders that were left out
    missing: list[str] = field(default_factory=list)  # stage folders that packed stages read and that are not packed


def pack(
    run_folder: Path,
    out: Path,
    only: list[str] | None = None,
    unfinished: bool = False,
    whole: bool = False,
    free: int | None = None,
) -> Pack:
    """Write the finished stages of `run_folder` to `out`, which comes to be completely or not at all.

    Args:
        only: names of stages; all if not given.
        unfinished: pack what unfinished stages have as well, with their checkpoints; nothing may run meanwhile.
        whole: never leave merged weights out.
        free: bytes of the disk that may be used; what is free if not given.

    Raises:
        ConfigError: no finished stage, a file that is not what its stage wrote, or too little room.
        FileNotFoundError: no such run folder.
    """
    form.check_suffix(out)
    if out.exists():
        raise ConfigError(f"{out}: exists; remove it, or give another name with -o")
    if not run_folder.is_dir():
        raise FileNotFoundError(f"{run_folder}: no such run folder; give one, for example runs/quickstart")
    with lock(run_folder) if unfinished else nullcontext():
        stages, left = _stages(run_folder, only, unfinished)
        total = sum(stage.bytes() for stage in stages)
        out.parent.mkdir(parents=True, exist_ok=True)
        with Pulse("pack", run_folder).beating() as pulse:
            with progress_bar(total / 1e6, "checking", "MB", pulse=pulse) as bar:
                for stage in stages:
                    _check_files(run_folder, stage, bar)
            weights = {}
            with progress_bar(len(stages), "comparing weights with adapters", "stages", pulse=pulse) as bar:
                for stage in stages:
                    weights[stage.folder] = _weights(run_folder, stage, stages, out.parent, whole)
                    bar.advance()
            manifest = Manifest(_about(run_folder), stages)
            check_room(f"{out}", sum(stage.bytes() for stage in stages), out.parent, free)
            text = manifest.text()
            size = _write(run_folder, out, manifest, text, pulse)
    here = {stage.folder for stage in stages}
    missing = sorted({folder for stage in stages for folder in stage.upstream} - here)
    return Pack(manifest, form.digest(text), size, weights, left, missing)


def _about(run_folder: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError):
        about: dict[str, Any] = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
        return about
    return {}


def _stages(run_folder: Path, only: list[str] | None, unfinished: bool) -> tuple[list[Packed], list[str]]:
    """Stages to pack, inputs before what reads them, and the unfinished ones that are left out."""
    folders = sorted(file.parent for file in run_folder.glob("[!.]*/*/settings.json"))
    names = {folder.parent.name for folder in folders}
    for name in only or ():
        if name not in names:
            raise ConfigError(f"--only {name}: no such stage in {run_folder}; {nearest(name, names)}")
    folders = [folder for folder in folders if only is None or folder.parent.name in only]
    done = {folder: read_done(folder) for folder in folders}
    left = [folder for folder in folders if done[folder] is None]
    stages = [_finished(folder, record) for folder, record in done.items() if record is not None]
    if not stages and not (unfinished and left):
        raise ConfigError(f"{run_folder}: no finished stage to pack; {len(left)} unfinished ones need --unfinished")
    stages = in_order(stages)
    if unfinished:
        return [*stages, *map(_unfinished, left)], []
    return stages, [f"{folder.parent.name}/{folder.name}" for folder in left]


def in_order(stages: list[Packed]) -> list[Packed]:
    """Those that others read first."""
    by_folder = {stage.folder: stage for stage in stages}
    ordered: dict[str, Packed] = {}

    def visit(stage: Packed) -> None:
        for folder in stage.upstream:
            if folder in by_folder and folder not in ordered:
                visit(by_folder[folder])
        ordered.setdefault(stage.folder, stage)

    for stage in stages:
        visit(stage)
    return list(ordered.values())


def _finished(folder: Path, done: dict[str, Any]) -> Packed:
    files = {name: {"sha256": sha, "size": _size(folder / name)} for name, sha in done["files"].items()}
    for name in RECORDS:
        if (folder / name).is_file():
            files[name] = {"sha256": hash_file(folder / name), "size": _size(folder / name)}
    outside = {ref: digests[0] for ref, digests in done["inputs"].items() if not ref.startswith("@")}
    return Packed(
        folder.parent.name, done["stage"], folder.name, done["seed"], done["version"], True, files,
        upstream=done["upstream"], outside=outside,
    )  # fmt: skip


def _unfinished(folder: Path) -> Packed:
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    files = {
        path.relative_to(folder).as_posix(): {"sha256": hash_file(path), "size": path.stat().st_size} for path in paths
    }
    return Packed(folder.parent.name, settings["stage"], folder.name, settings["seed"], None, False, files)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: is gone since its stage finished; put it back, or delete the stage's folder and run it again"
        ) from None


def _check_files(run_folder: Path, stage: Packed, bar: Bar) -> None:
    for name, entry in stage.files.items():
        path = run_folder / stage.folder / name
        if not form.is_inside(name) or path.is_symlink():
            raise ConfigError(f"{path}: is a link or has a name that no pack can hold; put a plain file there")
        if stage.finished and name not in RECORDS and hash_file(path) != entry["sha256"]:
            raise ConfigError(
                f"{path}: was changed after its stage finished (sha256 differs from {DONE}); put it back, or delete "
                "the stage's folder and run it again"
            )
        bar.advance(entry["size"] / 1e6)


def _weights(run_folder: Path, stage: Packed, stages: list[Packed], scratch: Path, whole: bool) -> str:
    """Move merged weights from `files` to `merged` where they can be made again; says what the stage's weights are."""
    names = weight_files(list(stage.files)) if stage.finished else []
    folder = run_folder / stage.folder
    name = adapter_base(folder) if names else None
    if name is None:
        return "whole" if names else ""
    if whole:
        return "whole, as asked"
    base = base_of(folder)
    if base is None or not _travels(name, stage, stages):
        return "whole: the base of its adapter is neither in the pack nor an input from outside"
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=scratch) as temporary:
        wanted = {file: stage.files[file]["sha256"] for file in names}
        other = difference(folder, base, wanted, Path(temporary))
    if other:
        return f"whole: {other}"
    stage.base = name
    stage.merged = {file: stage.files.pop(file) for file in names}
    return "adapter"


def _travels(name: str, stage: Packed, stages: list[Packed]) -> bool:
    """Whether who unpacks can have the base that an adapter calls `name`."""
    if not Path(name).is_absolute():
        return True  # a model of the hub
    return (
        "/".join(Path(name).parts[-2:]) in {one.folder for one in stages} or digest_of(name, stage.outside) is not None
    )


def _write(run_folder: Path, out: Path, manifest: Manifest, text: bytes, pulse: Pulse) -> int:
    """Write the archive under another name, then give it its own."""
    total = sum(stage.bytes() for stage in manifest.stages) / 1e6
    partial = out.with_name(f".{out.name}.partial")
    try:
        with (
            disk_errors(out.parent),
            partial.open("wb") as file,
            progress_bar(total, "packing", "MB", pulse=pulse) as bar,
            form.writing(file, out.name) as archive,
        ):
            archive.addfile(form.header(form.MANIFEST, len(text)), io.BytesIO(text))
            for member, name, stage in manifest.members():
                _add(archive, run_folder / member, member, stage.files[name], bar)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return out.stat().st_size


def _add(archive: tarfile.TarFile, path: Path, member: str, entry: dict[str, Any], bar: Bar) -> None:
    with path.open("rb") as file:
        hashed = HashedFile(file, bar)
        archive.addfile(form.header(member, entry["size"]), hashed)  # type: ignore[arg-type]
    if hashed.sha.hexdigest() != entry["sha256"]:
        raise ConfigError(f"{path}: was changed while it was packed; stop what writes to it and pack again")
