"""What the tests of time limits call: importable by a fresh process."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path


class Awkward(Exception):
    """Cannot be pickled: its constructor takes two arguments and passes on one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def double(number: int) -> int:
    return 2 * number


def misbehave(what: str | int) -> object:
    """An int is slept away in milliseconds and given back; a word names the misdeed."""
    if isinstance(what, int):
        time.sleep(what / 1000)
        return what
    if what == "hang":
        while True:
            time.sleep(3600)
    if what == "spin":
        while True:
            pass
    if what == "segfault":
        ctypes.string_at(0)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(0)
    if what == "raise":
        raise OSError("no such bond")
    if what == "awkward":
        raise Awkward("first", "second")
    if what == "unpicklable":
        return lambda: None
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    return what


def note_pid_and_hang(folder: str) -> None:
    """Leave a file named by the process id, then never return."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(3600)


def threads_and_pid(_: int) -> tuple[str, int]:
    return os.environ["OMP_NUM_THREADS"], os.getpid()


def parent_of_worker(_: int) -> int:
    return os.getppid()
