"""Rows of a data source: JSON Lines, JSON, Parquet, a folder of such files, or a data set on the Hugging Face hub.

Rows are read one at a time and carry the place they came from, so that a loader can say `file:line: what is wrong`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_models.records import BadRecord

SUFFIXES = (".jsonl", ".json", ".parquet")
LFS_MARK = b"version https://git-lfs"


@dataclass(frozen=True)
class Row:
    """One raw row and where it stands (`file:line`, `file: row n`, or the name of a one-row file)."""

    where: str
    fields: dict[str, Any]

    def text(self, *names: str) -> str:
        """The first of the named fields, stripped.

        Raises:
            BadRecord: none of them is there, or it is not text, or it is empty.
        """
        for name in names:
            if name in self.fields:
                value = self.fields[name]
                if isinstance(value, str) and value.strip():
                    return value.strip()
                raise BadRecord(f"{self.where}: field {name!r} is {value!r}; it must be text that is not empty")
        raise BadRecord(f"{self.where}: missing field {names[0]!r}; the row has {sorted(self.fields)}")


def iter_rows(path: str | Path) -> Iterator[Row]:
    """All rows of a file, or of all data files below a folder in natural order of their names.

    Raises:
        FileNotFoundError: no such file, a folder without data files, or a Git-LFS pointer in place of the file.
        BadRecord: a row is not readable; a Parquet or JSON file is incomplete; a file is empty.
    """
    path = Path(path)
    if path.is_dir():
        yield from _iter_folder(path)
    elif not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; give a {', '.join(SUFFIXES)} file or a folder of them"
        )
    else:
        yield from _iter_file(path)


def _iter_folder(folder: Path) -> Iterator[Row]:
    files = sorted((file for file in folder.rglob("*") if file.suffix in SUFFIXES), key=natural_key)
    if not files:
        raise FileNotFoundError(
            f"{folder}: no {', '.join(SUFFIXES)} file in this folder; give the folder with the data"
        )
    for file in files:
        yield from _iter_file(file)


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key in which 2.json comes before 10.json."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _iter_file(path: Path) -> Iterator[Row]:
    _refuse_lfs_pointer(path)
    readers = {".jsonl": _iter_lines, ".json": _iter_json, ".parquet": _iter_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    empty = True
    for row in readers[path.suffix](path):
        empty = False
        yield row
    if empty:
        raise BadRecord(f"{path}: the file has no rows; was it downloaded completely?")


def _refuse_lfs_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_MARK)) == LFS_MARK:
            raise FileNotFoundError(
                f"{path}: this is a Git-LFS pointer, not the data; run `git lfs pull` in its repository, "
                "or download the file itself"
            )


def _iter_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if raw.strip():
                where = f"{path}:{number}"
                yield Row(where, _as_object(_decode(raw, where), where))


def _iter_json(path: Path) -> Iterator[Row]:
    """One object is one row (the original layout of MATH); a list is many."""
    content = _decode(path.read_bytes(), str(path))
    if isinstance(content, dict):
        yield Row(str(path), content)
        return
    if not isinstance(content, list):
        raise BadRecord(f"{path}: expected a JSON object or a list of objects, found {type(content).__name__}")
    for index, item in enumerate(content):
        where = f"{path}: row {index}"
        yield Row(where, _as_object(item, where))


def _iter_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        reason = str(error).split(". ")[0]
        raise BadRecord(f"{path}: not a complete Parquet file ({reason}); download it again") from None
    index = 0
    for batch in file.iter_batches(batch_size=1024):
        for fields in batch.to_pylist():
            yield Row(f"{path}: row {index}", fields)
            index += 1


def _decode(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BadRecord(f"{where}: not JSON ({error.msg} at column {error.colno}); was the file cut off?") from None


def _as_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRecord(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def iter_hub(hub_id: str, split: str, configs: Sequence[str] = (), revision: str = "") -> Iterator[Row]:
    """All rows of one split of a hub data set, streamed into the library's cache.

    `configs` names the parts to read one after the other (EleutherAI/hendrycks_math has one a subject); without it
    all parts that the data set has are read.

    Raises:
        FileNotFoundError: the hub cannot be reached, or has no such data set, revision or part for this account.
    """
    import datasets

    try:
        names = list(configs) or datasets.get_dataset_config_names(hub_id, revision=revision or None)
        for name in names:
            rows = datasets.load_dataset(hub_id, name, split=split, revision=revision or None)
            for index, fields in enumerate(rows):
                yield Row(f"hub:{hub_id}/{name}/{split}: row {index}", dict(fields))
    except (OSError, ValueError) as error:  # all that datasets and huggingface_hub raise for a set that cannot be had
        if isinstance(error, BadRecord):
            raise
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"cannot read data set {hub_id!r} from the hub: {reason}. Without network, or for a gated or removed set, "
            "download its files elsewhere and give their paths in place of the hub id"
        ) from error


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of all data files below a folder."""
    path = Path(path)
    if path.is_file():
        return _file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    listing = "".join(f"{file.relative_to(path).as_posix()} {_file_sha256(file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
