"""Byte ranges of remote files kept as files here, bounded, shared by any number of processes.

An entry's name is a hash of what it holds, it appears by a rename, and it is only ever removed whole: a
reader finds all of it or nothing. What was used longest ago (by time of change, set at each use) goes first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path

from adit_scale.errors import DataError

_log = logging.getLogger(__name__)
_TEMPORARY = ".part-"
_ABANDONED_S = 3600  # a temporary file this old belongs to a process that was killed


class RangeCache:
    """folder: made where missing. Raises DataError where it cannot be.

    max_bytes: processes look after it each for themselves, each time they have added a sixty-fourth of it,
        and then clear to seven eighths; so up to eight that write at once stay within it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._added = max_bytes  # look after it at the first write
        self._warned = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be made ({error.strerror}); set data.cache to a folder with room"
            ) from error

    @staticmethod
    def key(*parts: str) -> str:
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def read(self, key: str, n_bytes: int) -> bytes | None:
        """None where there is no entry of that length."""
        path = self._entry(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:  # not there, or gone since
            return None
        return data if len(data) == n_bytes else None

    def path_of(self, key: str, n_bytes: int) -> Path | None:
        """The entry's file, marked as used; None where there is none of that length."""
        path = self._entry(key)
        try:
            os.utime(path)
            return path if path.stat().st_size == n_bytes else None
        except OSError:
            return None

    def write(self, key: str, data: bytes) -> Path | None:
        """Keep an entry. None, and a warning the first time, where the disk does not take it."""
        path = self._entry(key)
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            if not self._warned:
                _log.warning("%s: cannot keep blocks here (%s)", self.folder, error.strerror)
            self._warned = True
            return None
        self._added += len(data)
        if self._added >= self._max_bytes // 64:
            self._added = 0
            self._clear(path)
        return path

    def drop(self, key: str) -> None:
        self._entry(key).unlink(missing_ok=True)

    def _entry(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _clear(self, newest: Path) -> None:
        """Remove what was used longest ago, but never the entry just written."""
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        if total <= self._max_bytes - self._max_bytes // 16:
            return
        for _, size, path in sorted(entries):
            if total <= self._max_bytes - self._max_bytes // 8:
                break
            if path != str(newest):
                Path(path).unlink(missing_ok=True)
                total -= size

    def _entries(self) -> list[tuple[float, int, str]]:
        """Last use, size and path of each; what other processes remove meanwhile is left out."""
        entries: list[tuple[float, int, str]] = []
        for path in self.folder.glob("??/*"):
            try:
                state = path.stat()
            except OSError:
                continue
            if not path.name.startswith(_TEMPORARY):
                entries.append((state.st_mtime, state.st_size, str(path)))
            elif time.time() - state.st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)
        return entries
