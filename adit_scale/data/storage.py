"""Where a data set's files lie: a folder here, or an address elsewhere with a bounded cache here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adit_scale.errors import DataError


class Storage(Protocol):
    """Read access to the files of one data set. ``str()`` of it is its place, for messages."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises DataError where there is no such file."""

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes start to stop of a file, fewer where it ends before. Raises DataError."""

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Several ranges (name, start, stop), read at once where that saves waiting. Raises DataError."""

    def local_file(self, name: str) -> Path:
        """A path here with the whole file's bytes. Raises DataError."""

    def forget(self, name: str, start: int = 0, stop: int | None = None) -> bool:
        """These bytes were found wrong: drop a copy of them. False where there is none to be read anew."""


class LocalFolder:
    """A data set in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def size(self, name: str) -> int:
        return self.local_file(name).stat().st_size

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        path = self.local_file(name)
        try:
            with path.open("rb", buffering=0) as file:
                return read_fully(file.fileno(), start, stop)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        return [self.read_range(*one) for one in ranges]

    def local_file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{path}: no such file; copy it with the shards or build them again")
        return path

    def forget(self, name: str, start: int = 0, stop: int | None = None) -> bool:
        return False


def open_storage(location: str | Path, cache: str = "", cache_gib: float = 10.0) -> Storage:
    """The storage at a folder's path or an address such as ``s3://bucket/set`` or ``https://host/set``.

    cache, cache_gib: where blocks of a remote data set are kept, and how much of them; see DataConfig.
    """
    if "://" in str(location):
        from adit_scale.data.remote import RemoteFolder  # fsspec is loaded only where it is needed

        return RemoteFolder(str(location), cache, cache_gib)
    return LocalFolder(Path(location))


def read_fully(descriptor: int, start: int, stop: int) -> bytes:
    """One read may return less than asked for (2 GiB at most on Linux)."""
    pieces: list[bytes] = []
    while start < stop and (piece := os.pread(descriptor, stop - start, start)):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)
