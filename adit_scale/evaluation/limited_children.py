"""The children of ``limited``: a nursery that imports and forks, and its workers. No heavy imports."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

PID = struct.Struct("<q")
FORK = 0  # request to the nursery; any other number is the process id of a worker to end

_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT")


def receive(channel: socket.socket, n_bytes: int) -> bytes:
    """Exactly ``n_bytes``. Raises EOFError where the other side is gone."""
    data = b""
    while len(data) < n_bytes:
        try:
            more = channel.recv(n_bytes - len(data))
        except ConnectionResetError:
            more = b""
        if not more:
            raise EOFError("the other process is gone")
        data += more
    return data


def nursery_main(control_fd: int, parent: int) -> NoReturn:
    """Load functions and fork workers as the parent asks, until it is gone."""
    _detach(parent)
    channel = socket.socket(fileno=control_fd)
    children: set[int] = set()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(channel, children)
    for child in children:
        _kill(child)
    os._exit(0)


def _serve(channel: socket.socket, children: set[int]) -> NoReturn:
    function: Callable | None = None
    while True:
        data, fds, *_ = socket.recv_fds(channel, PID.size, 1)
        request = int(PID.unpack(data + receive(channel, PID.size - len(data)))[0])
        if request < 0:
            function = None  # it may be large
            function, answer = _load(receive(channel, -request))
            channel.sendall(PID.pack(len(answer)) + answer)
            continue
        if request == FORK:
            assert function is not None
            pid = _fork(function, channel, fds[0])
            children.add(pid)
        else:
            pid = request
            _kill(pid)
            children.discard(pid)
        channel.sendall(PID.pack(pid))


def _load(data: bytes) -> tuple[Callable | None, bytes]:
    """The function, and the pickled answer: None, or the error."""
    try:
        sys.path[:], pickled = pickle.loads(data)
        function: Callable = pickle.loads(pickled)
    except Exception as error:  # noqa: BLE001  the parent raises it
        return None, pickle.dumps(_sendable(error))
    gc.collect()
    gc.freeze()  # workers share these pages until they write to them
    return function, pickle.dumps(None)


def _fork(function: Callable, channel: socket.socket, fd: int) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        channel.close()
        _detach(nursery)
        _work(function, Connection(fd))
    finally:
        os._exit(1)


def _work(function: Callable, pipe: Connection) -> NoReturn:
    """Answer each list of items with one message an item, until the parent hangs up."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            items = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(pickle.dumps((time.monotonic(), "began", None)))
            for item in items:
                try:
                    value = function(item)
                    answer = pickle.dumps((time.monotonic(), "result", value))
                except Exception as error:  # noqa: BLE001  the parent raises it
                    answer = pickle.dumps((time.monotonic(), "raised", _sendable(error)))
                pipe.send_bytes(answer)
    os._exit(0)


def _sendable(error: Exception) -> tuple[Exception | None, str]:
    """The exception, or None where it cannot be pickled, and its traceback."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  a constructor with other arguments may raise anything
        return None, text
    return error, text


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _detach(parent: int) -> None:
    """Ignore the signals meant for the parent, and die with it."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before that
        os._exit(1)
