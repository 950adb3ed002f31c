"""The folder beside a data set in which it is built: one builder at a time, and one rename at the end."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adit_scale.data.manifest import MANIFEST_FILE
from adit_scale.errors import DataError

_STATE, _LOCK = "state.json", "lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not grow",
}


class Workplace:
    """The folder ``.NAME.partial`` beside ``out``, held by this process.

    pieces: folder of converted structures, kept for the next try unless ``discard`` was called.
    buckets: folder of the shuffle. data_set: folder that becomes ``out``.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = folder_of(out)
        self.pieces, self.buckets, self.data_set = (
            self.folder / n for n in ("pieces", "buckets", "data_set")
        )
        self._keep = True

    def begin(self, state: dict[str, Any]) -> None:
        """Keep what another try left if it set out to do the same, else clear it away."""
        text = json.dumps(state, sort_keys=True, indent=1)
        path = self.folder / _STATE
        if not path.is_file() or path.read_text() != text:
            shutil.rmtree(self.pieces, ignore_errors=True)
            path.unlink(missing_ok=True)
        for folder in (self.buckets, self.data_set):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.pieces, self.buckets, self.data_set):
            folder.mkdir(exist_ok=True)
        path.write_text(text)

    def discard(self) -> None:
        """Nothing here is worth another try."""
        self._keep = False

    def refuse_too_little_space(self, needed: int) -> None:
        """Raises DataError when the file system has less than ``needed`` bytes left."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise DataError(
                f"{self.folder}: about {_size(needed)} are still needed, {_size(free)} are free; "
                f"free some or choose another folder, then build again: converted structures are kept"
            )

    def move_into_place(self, overwrite: bool) -> None:
        """One rename makes the whole data set appear; a reader never sees a part of it."""
        for path in self.data_set.iterdir():
            _sync(path)
        _sync(self.data_set)
        refuse_used(self.out, overwrite)
        if self.out.exists() and any(self.out.iterdir()):
            old = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.old.", dir=self.out.parent))
            self.out.rename(old)
            self.data_set.rename(self.out)
            shutil.rmtree(old)
        else:
            self.data_set.rename(self.out)
        _sync(self.out.parent)
        self.discard()


@contextmanager
def workplace(out: Path) -> Iterator[Workplace]:
    """The workplace of ``out``. Raises DataError where it cannot be made or another builder is at it, and
    for a full disk."""
    place = Workplace(out)
    lock = _take(place)
    try:
        yield place
    except OSError as error:
        reason = _FULL.get(error.errno or 0)
        if reason is None:
            raise
        free = shutil.disk_usage(place.folder).free
        raise DataError(
            f"{place.folder}: {reason} ({_size(free)} free, {_size(_used(place.folder))} in use here); "
            f"free some or choose another folder, then build again: converted structures are kept"
        ) from error
    finally:
        for folder in (place.buckets, place.data_set):
            shutil.rmtree(folder, ignore_errors=True)
        if not place._keep or not any(place.pieces.glob("*.piece")):
            shutil.rmtree(place.folder, ignore_errors=True)
        os.close(lock)


def folder_of(out: Path) -> Path:
    """Where a data set is built."""
    return out.parent / f".{out.name}.partial"


def refuse_used(out: Path, overwrite: bool) -> None:
    """Raises DataError where ``out`` holds a data set that may not be overwritten, or something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_FILE).is_file():
        raise DataError(f"{out}: exists and is not a data set; choose another folder")
    if not overwrite:
        raise DataError(f"{out}: holds a data set already; choose another folder or ask to overwrite it")


def code_sha256() -> str:
    """sha256 of the converters: pieces made by others are not gone on with."""
    digest = hashlib.sha256()
    data = Path(__file__).parents[1]
    for path in sorted([*data.glob("sources/*.py"), *(data / name for name in _CONVERTERS)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_CONVERTERS = ("columns.py", "building/conversion.py", "building/keys.py", "building/staging.py")


def _take(place: Workplace) -> int:
    """Make the folder and lock it; the lock ends with the process, however it ends."""
    path = place.folder / _LOCK
    while True:
        try:
            place.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataError(
                f"{place.out.parent}: cannot be written ({error.strerror}); "
                f"choose another folder for the shards"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise DataError(
                f"{place.out}: another process is building it ({place.folder}); wait for it or end it"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                os.close(lock)
                raise
        try:
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)  # the builder before us has just finished and removed it


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
