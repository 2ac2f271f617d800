"""Verdicts by normalised pair: a bounded dictionary in memory, and a SQLite file if a path is given."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from rlhf_e2h.checker.verdict import Verdict

MEMORY_ENTRIES = 200_000
COMMIT_EVERY = 500  # rows written between commits; an interrupted run loses at most these
LONG_KEY = 200  # characters; longer keys are kept as digests so that memory stays bounded

# Verdicts that depend on the machine's load, not on the pair, are never written to disk.
TRANSIENT = frozenset({"timeout"})


class VerdictCache:
    """First in, first out beyond `MEMORY_ENTRIES`. `salt` names the checker's version and mode: a verdict of another
    version or mode is never read back from a shared file."""

    def __init__(self, path: str | Path | None = None, salt: str = "") -> None:
        self._memory: dict[str, Verdict] = {}
        self._salt = salt
        self._uncommitted = 0
        self._disk: sqlite3.Connection | None = None
        if path is not None:
            self._disk = _open(Path(path))

    def get(self, gold: str, answer: str) -> Verdict | None:
        key = self._key(gold, answer)
        found = self._memory.get(key)
        if found is None and self._disk is not None:
            row = self._disk.execute("SELECT equal, reason FROM verdicts WHERE key = ?", (_digest(key),)).fetchone()
            if row is not None:
                found = Verdict(bool(row[0]), row[1])
                self._remember(key, found)
        return found

    def put(self, gold: str, answer: str, verdict: Verdict, disk: bool = True) -> None:
        """`disk=False` for verdicts that are cheaper to find again than to write."""
        key = self._key(gold, answer)
        self._remember(key, verdict)
        if disk and self._disk is not None and verdict.reason not in TRANSIENT:
            row = (_digest(key), int(verdict.equal), verdict.reason)
            self._disk.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", row)
            self._uncommitted += 1
            if self._uncommitted >= COMMIT_EVERY:
                self._commit()

    def close(self) -> None:
        if self._disk is not None:
            self._commit()
            self._disk.close()
            self._disk = None

    def _commit(self) -> None:
        if self._disk is not None:
            self._disk.commit()
        self._uncommitted = 0

    def _remember(self, key: str, verdict: Verdict) -> None:
        if len(self._memory) >= MEMORY_ENTRIES:
            del self._memory[next(iter(self._memory))]
        self._memory[key] = verdict

    def _key(self, gold: str, answer: str) -> str:
        key = f"{self._salt}\0{gold}\0{answer}"
        return key if len(key) <= LONG_KEY else _digest(key).hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several ranks may share the file: wait for each other's short commits.
    disk = sqlite3.connect(path, timeout=30.0, check_same_thread=False)
    try:
        disk.execute("CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, equal INTEGER, reason TEXT)")
        disk.commit()
    except sqlite3.DatabaseError as error:
        disk.close()
        raise ValueError(f"{path}: not a cache of this checker ({error}); name a new file or delete this one") from None
    return disk
