"""The follower: a small process beside a job that mirrors the job's journal to a tracking server.

The job's supervisor starts it (``Follower``) and holds a pipe to it; the job itself knows nothing of it. It
lives as long as that pipe is open, so it cannot outlive a supervisor that was killed. Once it has begun it
runs at the lowest priority, and waits after each poll long enough to use about half a per cent of one core.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType

from adit_scale.errors import ConfigError
from adit_scale.tracking.config import (
    URI_VARIABLE,
    check_uri,
    takes_many_writers,
    usable_uri,
    without_credentials,
)

INTERVAL_S = 10.0
MAX_INTERVAL_S = 60.0  # while the store is down
CPU_SHARE = 0.005
LAST_POLL_S = 10.0  # may the last poll take, pictures and report included
# A job that is asked to stop saves and writes its last lines; SLURM kills what is left after 30 s (KillWait).
STOPPING_S = 25.0


class Follower:
    """Starts the follower of a job's folder, for the supervisor; a context manager.

    Nothing is started where ``uri`` is not a server (SQLite takes one writer: ``sync`` serves it later).
    The address travels by the environment alone. Imports nothing heavy; never raises because of the store.
    """

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        uri = os.environ.get(URI_VARIABLE) or uri
        self._process: subprocess.Popen[bytes] | None = None
        if not takes_many_writers(uri):
            return
        command = (sys.executable, "-m", "adit_scale.tracking", "follow", str(folder))
        self._process = subprocess.Popen(
            (*command, "--uri", without_credentials(uri), "--experiment", experiment),
            stdin=subprocess.PIPE,
            env=os.environ | {URI_VARIABLE: uri},
            start_new_session=True,  # a Ctrl-C or a signal to the job's group is not meant for it
        )

    def close(self, wait_s: float = LAST_POLL_S) -> None:
        """Let it poll a last time; call once the folder holds the job's ending. Kills it after ``wait_s``."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def follow(folder: Path, uri: str, experiment: str, interval_s: float = INTERVAL_S) -> None:
    """Mirror the job in ``folder`` until standard input ends, then a last time.

    SIGTERM is taken as a sign that the end is near: the job still writes its last lines. The process is gone
    ``STOPPING_S`` after it, and ``LAST_POLL_S`` after the end of the input, whatever the store does.

    Raises ConfigError for an address that jobs may not write to, DataError for a damaged folder.
    """
    uri = usable_uri(uri)
    check_uri(uri)
    if not takes_many_writers(uri):
        raise ConfigError(
            f"tracking.uri: got {without_credentials(uri)!r}, which takes one writer; expected the address "
            "of a server (make tracking-server); or mirror later with launch.py sync"
        )
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected the folder of a job")
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_term)

    # A second of imports, while the job makes its own; at the lowest priority it would take minutes.
    from adit_scale.tracking.sync import artifacts_folder
    from adit_scale.tracking.tailer import Tailer

    logging.getLogger("adit_scale").setLevel(logging.INFO)
    tailer = Tailer(uri, experiment, artifacts=artifacts_folder(folder))
    tailer.add_folder(folder)
    wait_s, polled = random.uniform(0.0, interval_s), False  # jobs of an array start together
    while not _input_ended(wait_s):
        busy_s = time.process_time()
        tailer.poll()
        busy_s = time.process_time() - busy_s if polled else 0.0
        down_s = 2 * wait_s if tailer.last_error else 0.0
        wait_s = max(interval_s, min(max(down_s, busy_s / CPU_SHARE), MAX_INTERVAL_S))
        if not polled:  # MLflow has imported the rest of itself
            _be_modest()
            polled = True
    _leave_in(LAST_POLL_S)
    while tailer.poll() or tailer.last_error:
        if tailer.last_error:
            time.sleep(1.0)


def _on_term(number: int, frame: FrameType | None) -> None:
    _leave_in(STOPPING_S)


def _leave_in(seconds: float) -> None:
    """Die by SIGALRM, which no blocked call can delay. What is missing then is left to ``sync``."""
    left_s = signal.getitimer(signal.ITIMER_REAL)[0]
    signal.setitimer(signal.ITIMER_REAL, min(seconds, left_s) if left_s else seconds)


def _input_ended(wait_s: float) -> bool:
    """Wait, at most so long, for the end of standard input; what stands in it is thrown away."""
    deadline_s = time.monotonic() + wait_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        if select.select([0], [], [], left_s)[0] and not os.read(0, 4096):
            return True
    return False


def _be_modest() -> None:
    """The lowest priority there is: a core that training wants is not taken from it."""
    os.nice(9)
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
