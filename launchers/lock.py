"""One launcher a study at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adit_scale.errors import AditError, ConfigError


class StudyBusy(AditError):
    """Another launcher works on this study."""


@contextmanager
def study_lock(folder: Path) -> Iterator[int]:
    """Hold ``folder``'s lock; yields its file descriptor. Raises StudyBusy where another process holds it,
    ConfigError where the folder cannot be written.

    The operating system drops the lock with the last process that has the descriptor open, so a killed
    launcher leaves no stale lock behind. Jobs inherit it: while one of a killed launcher's jobs still runs,
    the study stays locked and no node can run twice.
    """
    path = folder / "launch.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror}); set runs to a folder that can"
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise StudyBusy(
                f"{folder}: this study is being run by {holder}, or by jobs it left; wait for it, "
                f"stop it, or set another sweep.name"
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}")
        stream.flush()
        yield stream.fileno()
