"""Data files as people have them: byte order marks, line ends of three kinds, compression, NaN for a missing value.

Every reader of rows and texts goes through here, so that a file saved on Windows means what it means elsewhere.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from reward_models.step_text import normalise_newlines


class BadRecord(ValueError):  # noqa: N818
    """A line of a data file that cannot be used; the message starts with `file:line:`."""


COMPRESSED = (".gz", ".zst")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def normal_lines(value: Any) -> Any:
    """A text with CRLF and CR as LF; in lists and objects every text. Steps are found by blank lines, which CRLF hides.

    >>> normal_lines({"text": "a\\r\\n\\r\\nb"})
    {'text': 'a\\n\\nb'}
    """
    if isinstance(value, str):
        return normalise_newlines(value)
    if isinstance(value, list):
        return [normal_lines(item) for item in value]
    if isinstance(value, dict):
        return {name: normal_lines(item) for name, item in value.items()}
    return value


def without_nan(value: Any) -> Any:
    """The value with null for NaN, at any depth: pandas writes NaN where a table has no entry."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    return value


def uncompressed_suffix(path: Path) -> str:
    """Suffix without `.gz` or `.zst`: ".jsonl" for a.jsonl.gz."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file for reading, decompressed by its suffix.

    Raises:
        BadRecord: a compressed file that is cut off or is not compressed at all.
        ValueError: a `.zst` file where pyarrow is not installed.
    """
    try:
        with _opened(path) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadRecord(f"{path}: not a complete {path.suffix} file ({error}); download it again") from None
    except OSError as error:
        if path.suffix != ".zst" or error.errno is not None:
            raise
        raise BadRecord(f"{path}: not a complete .zst file ({error}); download it again") from None


def _opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        try:
            import pyarrow
        except ImportError:
            raise ValueError(
                f"{path}: reading .zst needs pyarrow (pip install pyarrow); or decompress it with `zstd -d`"
            ) from None
        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def iter_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(`file:line`, bytes) of each line that is not blank. Lines end in LF, CRLF or CR."""
    number = 0
    with open_bytes(path) as lines:
        for raw in lines:
            # JSON escapes line ends inside texts, so a bare CR always ends a line
            for part in raw.splitlines():
                number += 1
                if number == 1 and part.startswith(_UTF16):
                    raise BadRecord(_not_utf8(str(path)))
                if part.strip():
                    yield f"{path}:{number}", part


def parse_json(raw: bytes, where: str) -> Any:
    """The JSON value of UTF-8 bytes, a byte order mark allowed, with line ends of texts made LF.

    Raises:
        BadRecord: not UTF-8 (UTF-16 is named as such), or not JSON.
    """
    try:
        text = raw.decode("utf-8-sig")
        if "\0" in text:  # UTF-16 of English text is valid UTF-8 with every second byte zero
            raise BadRecord(_not_utf8(where))
        value = json.loads(text)
    except UnicodeDecodeError as error:
        if raw.startswith(_UTF16):
            raise BadRecord(_not_utf8(where)) from None
        raise BadRecord(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BadRecord(f"{where}: not JSON ({error.msg} at column {error.colno}); was the file cut off?") from None
    except RecursionError:
        raise BadRecord(f"{where}: JSON nested too deeply to be a row of data") from None
    return normal_lines(value) if "\\r" in text or "\\u000" in text else value


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """`parse_json` where only an object is a row."""
    value = parse_json(raw, where)
    if not isinstance(value, dict):
        raise BadRecord(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _not_utf8(where: str) -> str:
    return f"{where}: UTF-16 text; save it as UTF-8 (`iconv -f UTF-16 -t UTF-8 IN > OUT`)"
