"""`e2h unpack`: a pack into a run folder, every hash checked before anything is put in place."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rlhf_e2h.runner.config import ConfigError, nearest
from rlhf_e2h.runner.disk import check_room
from rlhf_e2h.runner.places import known_places, note_places, place_of
from rlhf_e2h.runner.progress import Bar, Pulse, progress_bar
from rlhf_e2h.runner.run_files import hash_data, hash_tree, lock, read_done, write_json
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.runner.traits import STAGES
from rlhf_e2h.tools.packing import manifest as form
from rlhf_e2h.tools.packing.manifest import HashedFile, Manifest, Packed
from rlhf_e2h.tools.packing.merging import difference
from rlhf_e2h.training.checkpoints import disk_errors

STAGING = ".unpacking"  # below the run folder: on the same disk, so that putting in place is a renaming


@dataclass
class Unpacked:
    """What came of it, by stage folder."""

    manifest: Manifest
    digest: str
    run_folder: Path
    placed: list[str] = field(default_factory=list)
    here: list[str] = field(default_factory=list)  # finished here before, with the same outputs
    kept: list[str] = field(default_factory=list)  # unfinished in the pack and begun or finished here
    missing: list[str] = field(default_factory=list)  # stage folders that unpacked stages read and that are not here


def unpack(
    source: Path,
    into: Path | None = None,
    only: list[str] | None = None,
    bases: Iterable[Path] = (),
    free: int | None = None,
) -> Unpacked:
    """Put the stages of the pack `source` into a run folder: all that are asked for, or none.

    Args:
        into: the run folder; `runs/RECIPE` if not given.
        only: names of stages; all if not given.
        bases: folders of models that merged weights are made from again, where the run does not know them.
        free: bytes of the disk that may be used; what is free if not given.

    Raises:
        ConfigError: damaged or changed, of another code version, different from what is finished here, or too large.
        FileNotFoundError: no such file, or a base that is not here.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file; give what `e2h pack RUN -o FILE` wrote")
    with _reading(source) as archive:
        text = _first(archive, source)
        manifest = form.read_manifest(text, str(source))
        root = into or Path("runs") / _recipe_name(manifest, source)
        found = Unpacked(manifest, form.digest(text), root)
        chosen = _chosen(manifest, only, source)
        with lock(root):
            wanted = [stage for stage in chosen if _is_new(root, stage, found)]
            check_room(f"{source}", sum(stage.bytes(whole=True) for stage in wanted), root, free)
            with Pulse("unpack", root).beating() as pulse, disk_errors(root), _staging(root) as staging:
                _extract(archive, source, manifest, {stage.folder for stage in wanted}, staging, pulse)
                for stage in wanted:
                    _check_record(staging / stage.folder, stage, source)
                _merge_again(root, staging, wanted, bases)
                for stage in wanted:
                    _place(staging / stage.folder, root / stage.folder)
                    found.placed.append(stage.folder)
                if manifest.run and not (root / "run.json").exists():
                    write_json(root / "run.json", manifest.run)
    read = {folder for stage in chosen for folder in stage.upstream}
    found.missing = sorted(folder for folder in read if read_done(root / folder) is None)
    return found


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[tarfile.TarFile]:
    """The archive, whose damage is one sentence."""
    try:
        with tarfile.open(source, "r|gz" if source.name.endswith("gz") else "r|") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{source}: damaged or cut short ({error}); nothing was unpacked: copy it again, and compare sha256sum"
        ) from None


def _first(archive: tarfile.TarFile, source: Path) -> bytes:
    info = archive.next()
    if info is None or info.name != form.MANIFEST or not info.isreg() or info.size > form.LARGEST_MANIFEST:
        raise ConfigError(f"{source}: does not begin with {form.MANIFEST}; not a pack of `e2h pack`")
    file = archive.extractfile(info)
    assert file is not None
    return file.read()


def _recipe_name(manifest: Manifest, source: Path) -> str:
    name = str(manifest.run.get("recipe", ""))
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ConfigError(f"{source}: its recipe is called {name!r}; say where it goes with --into FOLDER")
    return name


def _chosen(manifest: Manifest, only: list[str] | None, source: Path) -> list[Packed]:
    """The stages that are asked for, whose code is that of here."""
    names = {stage.name for stage in manifest.stages}
    for name in only or ():
        if name not in names:
            raise ConfigError(f"--only {name}: no such stage in {source}; {nearest(name, names)}")
    chosen = [stage for stage in manifest.stages if only is None or stage.name in only]
    other = {stage.name: _other_version(stage) for stage in chosen if _other_version(stage)}
    if other:
        fine = sorted(names - set(other))
        rest = f"; without them: --only {' '.join(fine)}" if fine else ""
        raise ConfigError(
            f"{source}: {'; '.join(other.values())}. A stage of another version would be run again, so nothing was "
            f"unpacked: use the version that packed it{rest}"
        )
    return chosen


def _other_version(stage: Packed) -> str:
    """What is wrong with the version of a stage's code, or nothing."""
    if stage.kind not in STAGES:
        return f"{stage.name} is a {stage.kind!r} stage, which is not a stage here"
    if not stage.finished:
        return ""  # its identity says it
    here = importlib.import_module(STAGES[stage.kind].module).VERSION
    return (
        ""
        if here == stage.version
        else f"{stage.name} was made by version {stage.version} of {stage.kind}, here is {here}"
    )


def _is_new(root: Path, stage: Packed, found: Unpacked) -> bool:
    """Whether a stage is to be unpacked; one that is here is left as it is.

    Raises:
        ConfigError: it is finished here with other outputs.
    """
    folder, done = root / stage.folder, read_done(root / stage.folder)
    if not stage.finished:
        if folder.exists():
            found.kept.append(stage.folder)
        return not folder.exists()
    if done is None:
        return True
    if different := _different(done["files"], stage.outputs()):
        raise ConfigError(
            f"{folder}: is finished here with another {different} than in the pack; nothing was unpacked: give "
            "another folder with --into, or move that one away"
        )
    found.here.append(stage.folder)
    return False


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    folder = root / STAGING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(
    archive: tarfile.TarFile, source: Path, manifest: Manifest, wanted: set[str], staging: Path, pulse: Pulse
) -> None:
    """Read the whole archive, checking each file against the manifest, and write those of the wanted stages."""
    expected = {member: (stage, stage.files[name]) for member, name, stage in manifest.members()}
    total = sum(entry["size"] for _, entry in expected.values()) / 1e6
    with progress_bar(total, "unpacking", "MB", pulse=pulse) as bar:
        while (info := archive.next()) is not None:
            if not info.isreg():
                raise ConfigError(f"{source}: {info.name!r} is not a plain file (a link, say); nothing was unpacked")
            if info.name not in expected:
                outside = not form.is_inside(info.name)
                why = "leads out of the run folder" if outside else f"is not in its {form.MANIFEST}, or is there twice"
                raise ConfigError(f"{source}: {info.name!r} {why}; nothing was unpacked")
            stage, entry = expected.pop(info.name)
            _extract_one(archive, info, staging / info.name if stage.folder in wanted else None, entry, source, bar)
    if expected:
        raise ConfigError(f"{source}: {next(iter(expected))!r} is missing, cut short perhaps; nothing was unpacked")


def _extract_one(
    archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path | None, entry: dict[str, Any], source: Path, bar: Bar
) -> None:
    inner: IO[bytes] | None = archive.extractfile(info) if info.size == entry["size"] else None
    same = inner is not None
    if inner is not None:
        hashed = HashedFile(inner, bar)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") if path is not None else open(os.devnull, "wb") as out:
            while block := hashed.read(form.BLOCK):
                out.write(block)
        same = hashed.sha.hexdigest() == entry["sha256"]
    if not same:
        raise ConfigError(f"{source}: {info.name} was changed after packing (its sha256 differs); nothing was unpacked")


def _check_record(folder: Path, stage: Packed, source: Path) -> None:
    """A finished stage's own record agrees with the manifest, name by name and hash by hash."""
    if not stage.finished:
        return
    done = read_done(folder) or {}
    said = tuple(done.get(key) for key in ("stage", "name", "identity", "version"))
    if said != (stage.kind, stage.name, stage.identity, stage.version):
        raise ConfigError(f"{source}: {stage.folder}: done.json and {form.MANIFEST} disagree; nothing was unpacked")
    if changed := _different(done["files"], stage.outputs()):
        raise ConfigError(
            f"{source}: {stage.folder}/{changed} was changed after its stage finished (done.json has another sha256); "
            "nothing was unpacked"
        )


def _different(files: dict[str, str], others: dict[str, str]) -> str | None:
    """The first name, in order, whose sha256 is not the same in both."""
    return next((name for name in sorted(files | others) if files.get(name) != others.get(name)), None)


def _merge_again(root: Path, staging: Path, stages: list[Packed], bases: Iterable[Path]) -> None:
    """Make the weights that were left out, in the order of the pack, in which a base comes before what is made of it.

    Raises:
        ConfigError: they come out otherwise on this machine.
        FileNotFoundError: no base.
    """
    if not any(stage.merged for stage in stages):
        return
    given = [*bases, *(folder for folder in ASSETS.iterdir() if (folder / "config.json").is_file())]
    places = {_digest(folder): str(folder.resolve()) for folder in given}
    note_places(staging, known_places(root) | places)
    for stage in stages:
        if not stage.merged:
            continue
        folder, scratch = staging / stage.folder, staging / ".merged"
        base = _base(root, folder, stage)
        wanted = {name: entry["sha256"] for name, entry in stage.merged.items()}
        other = difference(folder, base, wanted, scratch)
        if other:
            raise ConfigError(
                f"{stage.name}: its merged weights are not in the pack, and {other} on this machine; nothing was "
                "unpacked: pack it again with --whole, or leave it out with --only"
            )
        for name in wanted:
            os.replace(scratch / name, folder / name)
        shutil.rmtree(scratch)
    note_places(root, known_places(staging))


def _digest(folder: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(f"--base {folder}: no such folder; give the folder of the model")
    return hash_data(hash_tree(folder))


def _base(root: Path, folder: Path, stage: Packed) -> str:
    assert stage.base is not None
    path = Path(place_of(folder, stage.base))
    beside = root.joinpath(*path.parts[-2:])  # finished here before
    if not path.is_absolute() or path.exists():
        return str(path)
    if beside.is_dir():
        return str(beside)
    raise FileNotFoundError(
        f"{stage.name}: its weights are made again from {stage.base}, which is not here; nothing was unpacked: give "
        "the folder of that model with --base FOLDER"
    )


def _place(staged: Path, final: Path) -> None:
    """Put a stage in place; what an unfinished one has there goes only when the finished one stands."""
    final.parent.mkdir(parents=True, exist_ok=True)
    old = staged.with_name(f".{staged.name}.old")
    if final.exists():
        os.replace(final, old)
    os.replace(staged, final)
