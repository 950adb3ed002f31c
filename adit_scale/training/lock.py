"""One run, one writer: a lock on the run's folder that the operating system drops however the run ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType
from typing import IO

import torch.distributed as dist

from adit_scale.errors import TrainingError

LOCK_FILE = "run.lock"


class RunLock:
    """Held by rank 0 from construction until the ``with`` block ends. Construction is a collective call.

    Raises TrainingError on every rank when another process trains in ``folder``.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] | None = None
        refused = [False]
        if dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / LOCK_FILE).open("ab")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused = [True]
                self._file.close()
        dist.broadcast_object_list(refused, src=0)
        if refused[0]:
            raise TrainingError(
                f"{folder / LOCK_FILE}: held by another process that trains in this folder; wait for it, "
                "stop it, or use a new run folder"
            )

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
