"""What a pack holds: `manifest.json`, the first file of the archive, and the archive that is read and written.

A pack is a tar file, compressed by gzip where its name says so. Beside the manifest it holds plain files alone, each as
`STAGE/IDENTITY/FILE` of the run folder, in the order of the manifest and without times or owners, so that two packs of
one content are byte for byte the same.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from rlhf_e2h import __version__
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.progress import Bar
from rlhf_e2h.runner.run_files import RECORDS

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 64 << 20  # bytes
SUFFIXES = (".tar", ".tar.gz", ".tgz")
BLOCK = 1 << 20
_WORD = re.compile(r"\w[\w.-]*", re.ASCII)  # of a stage's name and its identity
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class Packed:
    """One stage of a pack. `files` and `merged`: name in the stage folder -> {"sha256", "size" in bytes}."""

    name: str
    kind: str
    identity: str
    seed: int | None
    version: int | None  # of the stage's code; None where the stage is unfinished
    finished: bool
    files: dict[str, dict[str, Any]]
    # weights that are not in the archive, since the adapter on `base` gives them byte for byte
    merged: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: str | None = None  # what the adapter calls the model that it was trained on
    upstream: list[str] = field(default_factory=list)  # STAGE/IDENTITY of the stages whose output it read
    outside: dict[str, str] = field(default_factory=dict)  # what it read from outside the run: reference -> digest

    @property
    def folder(self) -> str:
        return f"{self.name}/{self.identity}"

    def outputs(self) -> dict[str, str]:
        """sha256 of what the stage wrote, by name; its records about itself are left out."""
        return {name: one["sha256"] for name, one in (self.files | self.merged).items() if name not in RECORDS}

    def bytes(self, whole: bool = False) -> int:
        """Size of its files in the archive; `whole`: on the disk, with the weights that are made again."""
        return sum(one["size"] for one in [*self.files.values(), *(self.merged.values() if whole else ())])


@dataclass
class Manifest:
    """The contents of a pack, and what made it."""

    run: dict[str, Any]  # run.json: recipe, overrides, seeds, versions, machine, commit
    stages: list[Packed]
    package: str = __version__  # of rlhf_e2h, that packed it
    format: int = FORMAT

    def text(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    def members(self) -> Iterator[tuple[str, str, Packed]]:
        """(name in the archive, name in the stage folder, stage) of each file, in the order of the archive."""
        for stage in self.stages:
            for name in sorted(stage.files):
                yield f"{stage.folder}/{name}", name, stage


def digest(text: bytes) -> str:
    """What a manifest is known by: two packs with the same have the same content."""
    return hashlib.sha256(text).hexdigest()[:16]


def read_manifest(text: bytes, source: str) -> Manifest:
    """A manifest whose every name stays inside the run folder.

    Raises:
        ConfigError: not a manifest, one of another format, or a name that leads elsewhere.
    """
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ConfigError(
                f"{source}: a pack of format {data['format']}, and this version reads format {FORMAT}; unpack it with "
                f"the version that made it (rlhf_e2h {data.get('package', 'unknown')})"
            )
        manifest = Manifest(data["run"], [Packed(**stage) for stage in data["stages"]], data["package"])
        for stage in manifest.stages:
            _check(stage, source)
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{source}: {MANIFEST} cannot be read ({type(error).__name__}: {error}); not a pack"
        ) from None
    return manifest


def _check(stage: Packed, source: str) -> None:
    for word in (stage.name, stage.identity):
        if not _WORD.fullmatch(word):
            raise ConfigError(f"{source}: {word!r} cannot be the name of a folder of a run; nothing was unpacked")
    for name, entry in [*stage.files.items(), *stage.merged.items()]:
        if not is_inside(name):
            raise ConfigError(f"{source}: {stage.name}: {name!r} leads out of its folder; nothing was unpacked")
        if not _DIGEST.fullmatch(entry["sha256"]) or not isinstance(entry["size"], int) or entry["size"] < 0:
            raise ConfigError(f"{source}: {stage.folder}/{name}: no sha256 or size in {MANIFEST}; not a pack")


def is_inside(name: str) -> bool:
    """Whether a name, taken below a folder, stays below it on every system."""
    parts = name.split("/")
    plain = not name.startswith("/") and "\\" not in name and "\0" not in name and ":" not in parts[0]
    return plain and str(PurePosixPath(name)) == name and not {"", ".", ".."} & set(parts)


def check_suffix(path: Path) -> None:
    """
    Raises:
        ConfigError: the name does not say which kind of archive it is.
    """
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"{path}: a pack ends in {', '.join(SUFFIXES)}; .tar is faster, and weights hardly shrink")


@contextlib.contextmanager
def writing(file: IO[bytes], name: str) -> Iterator[tarfile.TarFile]:
    """An archive in an open file; `name` says whether it is compressed."""
    with contextlib.ExitStack() as stack:
        if not name.endswith(".tar"):
            file = cast(Any, stack.enter_context(gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0)))
        yield stack.enter_context(tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT))


def header(name: str, size: int) -> tarfile.TarInfo:
    """What the archive says of a file: nothing that differs between two machines."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


class HashedFile:
    """A file whose reading gives its sha256 and moves a bar of megabytes."""

    def __init__(self, file: IO[bytes], bar: Bar) -> None:
        self._file, self._bar, self.sha = file, bar, hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self.sha.update(block)
        self._bar.advance(len(block) / 1e6)
        return block
