"""Rows of a data source: JSON Lines, JSON, Parquet, a folder of such files, or a data set on the Hugging Face hub.

Rows are read one at a time and carry the place they came from, so that a loader can say `file:line: what is wrong`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_models.files import (
    COMPRESSED,
    BadRecord,
    iter_lines,
    normal_lines,
    open_bytes,
    parse_json,
    parse_object,
    uncompressed_suffix,
    without_nan,
)

SUFFIXES = (".jsonl", ".json", ".parquet")
LFS_MARK = b"version https://git-lfs"
# Files that stand beside data and hold none: of `datasets`, of models and their training, of ours.
METADATA = frozenset(
    f"{name}.json"
    for name in (
        *("dataset_info", "dataset_infos", "dataset_dict", "state", "metadata", "croissant", "package"),
        *("config", "generation_config", "adapter_config", "tokenizer", "tokenizer_config", "special_tokens_map"),
        *("added_tokens", "vocab", "preprocessor_config", "trainer_state", "all_results", "train_results"),
        *("done", "settings", "summary"),
    )
)
_CHECKPOINT = re.compile(r"checkpoint-\d+$|.*-checkpoint$")  # of the Trainer, of Jupyter


@dataclass(frozen=True)
class Row:
    """One raw row and where it stands (`file:line`, `file: row n`, or the name of a one-row file).

    Line ends of texts are LF, and NaN is None.
    """

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

    def optional_text(self, *names: str) -> str:
        """The first of the named fields that is there and not null, stripped; "" without any.

        Raises:
            BadRecord: it is not text.
        """
        for name in names:
            value = self.fields.get(name)
            if value is not None:
                if isinstance(value, str):
                    return value.strip()
                raise BadRecord(f"{self.where}: field {name!r} is {value!r}; it must be text, or null if there is none")
        return ""


@dataclass
class Listing:
    """The data files below a folder, in natural order, and those that were skipped by their names."""

    files: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def iter_rows(path: str | Path, split: str = "train") -> Iterator[Row]:
    """All rows of a file, of all data files below a folder in natural order, or of a `save_to_disk` folder.

    `split` chooses the part of a saved `DatasetDict`.

    Raises:
        FileNotFoundError: no such file, a folder without data files, or a Git-LFS pointer in place of the file.
        BadRecord: a row is not readable; a Parquet or JSON file is incomplete; a file is empty.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; give a {', '.join(SUFFIXES)} file or a folder of them"
        )
    if not path.is_dir():
        rows = _iter_file(path)
    elif saved_to_disk(path):
        rows = _iter_saved(path, split)
    else:
        rows = (row for file in list_folder(path).files for row in _iter_file(file))
    return (Row(row.where, without_nan(row.fields)) for row in rows)


def list_folder(folder: Path) -> Listing:
    """Data files below a folder; hidden files, metadata and checkpoints are skipped by their names.

    Raises:
        FileNotFoundError: no data file.
    """
    listing = Listing()
    for file in sorted((f for f in folder.rglob("*") if uncompressed_suffix(f) in SUFFIXES), key=natural_key):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith((".", "__")) for part in parts)
        checkpoint = any(_CHECKPOINT.match(part.partition(".")[0]) for part in parts)
        if hidden or checkpoint or file.name in METADATA or file.name.endswith(".index.json"):
            listing.skipped.append("/".join(parts))
        elif file.is_file():
            listing.files.append(file)
    if not listing.files:
        skipped = f"; skipped by their names: {', '.join(listing.skipped[:5])}" if listing.skipped else ""
        raise FileNotFoundError(
            f"{folder}: no {', '.join(SUFFIXES)} file in this folder{skipped}; give the folder with the data"
        )
    return listing


def skipped_files(path: Path) -> list[str]:
    """Names of the files below a folder of data that `iter_rows` does not read; none for a file."""
    return list_folder(path).skipped if path.is_dir() and not saved_to_disk(path) else []


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key in which 2.json comes before 10.json."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def saved_to_disk(folder: Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _iter_saved(folder: Path, split: str) -> Iterator[Row]:
    import datasets

    try:
        found: Any = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise BadRecord(f"{folder}: not a complete `save_to_disk` folder ({error}); save it again") from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise BadRecord(f"{folder}: no split {split!r}; it has {', '.join(found)}. Give the folder of one of them")
        found, folder = found[split], folder / split
    if not len(found):
        raise BadRecord(f"{folder}: the data set has no rows")
    for index, fields in enumerate(found):
        yield Row(f"{folder}: row {index}", normal_lines(dict(fields)))


def _iter_file(path: Path) -> Iterator[Row]:
    _refuse_lfs_pointer(path)
    readers = {".jsonl": _iter_lines, ".json": _iter_json, ".parquet": _iter_parquet}
    kind = uncompressed_suffix(path)
    if kind not in readers or (kind == ".parquet" and path.suffix in COMPRESSED):
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    empty = True
    for row in readers[kind](path):
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
    return (Row(where, parse_object(raw, where)) for where, raw in iter_lines(path))


def _iter_json(path: Path) -> Iterator[Row]:
    """One object is one row (the original layout of MATH); a list is many."""
    with open_bytes(path) as file:
        content = parse_json(file.read(), str(path))
    if isinstance(content, dict):
        yield Row(str(path), content)
        return
    if not isinstance(content, list):
        raise BadRecord(f"{path}: expected a JSON object or a list of objects, found {type(content).__name__}")
    for index, item in enumerate(content):
        where = f"{path}: row {index}"
        if not isinstance(item, dict):
            raise BadRecord(f"{where}: expected a JSON object, found {type(item).__name__}")
        yield Row(where, item)


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
            yield Row(f"{path}: row {index}", normal_lines(fields))
            index += 1


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
                yield Row(f"hub:{hub_id}/{name}/{split}: row {index}", without_nan(normal_lines(dict(fields))))
    except (OSError, ValueError) as error:  # all that datasets and huggingface_hub raise for a set that cannot be had
        if isinstance(error, BadRecord):
            raise
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"cannot read data set {hub_id!r} from the hub: {reason}. Without network, or for a gated or removed set, "
            "download its files elsewhere and give their paths in place of the hub id"
        ) from error


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files below a folder that are read."""
    path = Path(path)
    if path.is_file():
        return _file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if saved_to_disk(path) else None
    files = list_folder(path).files if files is None else files
    files = sorted(files)
    listing = "".join(f"{file.relative_to(path).as_posix()} {_file_sha256(file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
