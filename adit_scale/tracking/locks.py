"""Who mirrors a folder now, and which run of a store it became: two small files beside the journal.

A tracking store has no constraint that would keep two processes from making the same run twice, so the
processes that share a folder (the followers of a study's jobs, a launcher, ``sync``) take turns by its lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from adit_scale.tracking.config import StoreUnavailable, without_credentials

LOCK = ".tracking.lock"
RUNS = ".tracking.json"
LOCK_TIMEOUT_S = 60.0
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def locked(path: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock file ``path``, made with its folder where missing. Raises StoreUnavailable if it is busy.

    The operating system drops the lock with the process. A folder that this process may not write has no
    lock: whoever mirrors it from there is alone.
    """
    stream = _open(path)
    if stream is None:
        yield
        return
    with stream:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline_s:
                    raise StoreUnavailable(f"{path}: locked by another process") from error
                time.sleep(0.05)
        yield


def recorded_run(folder: Path, uri: str, journal_id: str) -> str | None:
    """The id of the run that ``record_run`` noted for this journal ("" for a study) in this store."""
    found = _records(folder).get(_store(uri), {})
    return str(found["run"]) if found.get("journal") == journal_id else None


def record_run(folder: Path, uri: str, journal_id: str, run_id: str) -> None:
    """Note it; hold the folder's lock. Where the folder cannot be written the store is searched again."""
    records = _records(folder)
    records[_store(uri)] = {"journal": journal_id, "run": run_id}
    part = folder / f"{RUNS}.{os.getpid()}"
    try:
        part.write_text(json.dumps(records, indent=1) + "\n")
        part.replace(folder / RUNS)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise


def _open(path: Path) -> IO[str] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
    return path.open("r") if path.is_file() and os.access(path, os.R_OK) else None


def _records(folder: Path) -> dict[str, dict[str, str]]:
    """What was noted; nothing where that is damaged, for the store knows its runs by their tags as well."""
    try:
        found = json.loads((folder / RUNS).read_text())
    except (FileNotFoundError, PermissionError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _store(uri: str) -> str:
    return without_credentials(uri)
