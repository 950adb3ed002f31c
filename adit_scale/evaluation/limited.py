"""Calls with a time limit, each in a process that may be killed. Linux; other systems lose orphan protection.

Some chemistry calls never return (bond orders of a cage, Voronoi cells of a layer) or end their process. So
they run in children: a call over its limit has its process killed, and that one item is reported.

One *nursery* process imports what the function needs, then forks workers: a killed worker is replaced in
milliseconds, where a fresh interpreter would spend seconds on imports. For the same reason the nursery stays
for the next call. The parent itself is never forked: it may hold threads or an accelerator. All children run
single-threaded, ignore the parent's signals and die with it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn, TypeVar

from adit_scale.evaluation.limited_children import FORK, PID, receive

OVER_TIME = "time limit"  # the reason of a chemistry call that was cut off
CRASHED = "the process of the check died"

T = TypeVar("T")
R = TypeVar("R")

_MAX_CHUNK = 32  # items a worker is handed at once
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
_START = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from adit_scale.evaluation.limited_children import nursery_main; "
    "nursery_main(int(sys.argv[1]), int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Overrun:
    """What a call gave that was cut off. reason: OVER_TIME or CRASHED."""

    reason: str


def map_limited(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    limit_s: float,
    processes: int,
    progress: Callable[[int], object] | None = None,
) -> list[R | Overrun]:
    """``function`` of each item, in the order of ``items``; an item cut off gives an :class:`Overrun`.

    function: of an importable module (or a ``functools.partial`` of one), and deterministic. limit_s: wall
    seconds of one call, from its own start. processes: workers; 0 calls inline, without a limit.
    progress: called with the number of items just finished. An exception of ``function`` is raised here.
    """
    if not items:
        return []
    if processes <= 0:
        return list(_inline(function, items, progress))
    assert limit_s > 0, f"limit_s is {limit_s}"
    nursery = _nursery_of_this_thread()
    try:
        nursery.load(function)
        run = _Run(nursery, items, limit_s, min(processes, len(items)), progress)
        found = run.results()
        run.close()
    except BaseException:
        nursery.close()  # with its workers, whatever they are at
        raise
    return found


def _inline(
    function: Callable[[T], R], items: Sequence[T], progress: Callable[[int], object] | None
) -> Iterator[R]:
    for item in items:
        yield function(item)
        if progress is not None:
            progress(1)


@dataclass(eq=False)
class _Worker:
    """pending: places of the items it was handed and has not answered, the first one running.
    started: monotonic seconds at which that one began; None while the worker itself is starting."""

    pid: int
    pipe: Connection
    pending: deque[int] = field(default_factory=deque)
    started: float | None = None


class _Nursery:
    """The process that forks workers, and ends with all of them at ``close`` or with this thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), str(os.getpid()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | _ONE_THREAD,
                start_new_session=True,  # a Ctrl-C at the terminal is the parent's
            )

    @property
    def usable(self) -> bool:
        """Alive, and of this process: a fork of the parent must not speak to it."""
        return self.pid == os.getpid() and self._socket.fileno() >= 0 and self._process.poll() is None

    def load(self, function: Callable) -> None:
        """Raises what loading it raises there."""
        data = pickle.dumps((sys.path, pickle.dumps(function)))
        self._socket.sendall(PID.pack(-len(data)) + data)
        answer = pickle.loads(receive(self._socket, self._answer()))
        if answer is not None:
            _raise_here(*answer)

    def close(self) -> None:
        self._socket.close()  # it then ends its workers and itself
        if self.pid != os.getpid():
            return
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def fork(self) -> _Worker:
        ours, theirs = Pipe()
        socket.send_fds(self._socket, [PID.pack(FORK)], [theirs.fileno()])
        theirs.close()
        return _Worker(self._answer(), ours)

    def end(self, worker: _Worker) -> None:
        worker.pipe.close()
        self._socket.sendall(PID.pack(worker.pid))
        self._answer()

    def _answer(self) -> int:
        try:
            return int(PID.unpack(receive(self._socket, PID.size))[0])
        except EOFError as error:
            raise RuntimeError("the process of time-limited calls died; see its output above") from error


_OF_THREAD = threading.local()  # a child dies with the thread that started it


def _nursery_of_this_thread() -> _Nursery:
    nursery: _Nursery | None = getattr(_OF_THREAD, "nursery", None)
    if nursery is None or not nursery.usable:
        nursery = _OF_THREAD.nursery = _Nursery()
        atexit.register(nursery.close)
    return nursery


class _Run:
    """One call of :func:`map_limited`."""

    def __init__(
        self,
        nursery: _Nursery,
        items: Sequence,
        limit_s: float,
        processes: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._nursery, self._items, self._limit_s, self._processes = nursery, items, limit_s, processes
        self._progress = progress
        self._found: list[Any] = [None] * len(items)
        self._left = len(items)
        self._todo = deque(range(len(items)))
        self._workers: list[_Worker] = []

    def results(self) -> list:
        while self._left:
            self._hand_out()
            for worker in _wait_for(self._workers, self._patience_s()):
                self._read(worker)
            for worker in self._overdue():
                self._end(worker, OVER_TIME)
        return self._found

    def close(self) -> None:
        for worker in self._workers:
            self._nursery.end(worker)

    def _hand_out(self) -> None:
        while self._todo and len(self._workers) < self._processes:
            self._workers.append(self._nursery.fork())
        for worker in list(self._workers):
            if worker.pending or not self._todo:
                continue
            # Large shares at first, single items at the end, so that the workers finish together.
            share = max(1, min(_MAX_CHUNK, len(self._todo) // (4 * self._processes)))
            worker.pending.extend(self._todo.popleft() for _ in range(share))
            try:
                worker.pipe.send_bytes(pickle.dumps([self._items[place] for place in worker.pending]))
            except OSError:
                self._end(worker, CRASHED)

    def _overdue(self) -> list[_Worker]:
        """Workers whose call has passed its limit; an answer that has come since counts."""
        since = time.monotonic() - self._limit_s
        return [
            worker
            for worker in self._workers
            if worker.pending and worker.started is not None and worker.started < since
            if not worker.pipe.poll()
        ]

    def _patience_s(self) -> float:
        """Seconds until the first limit is reached."""
        starts = [w.started for w in self._workers if w.pending and w.started is not None]
        return max(0.0, min(starts, default=time.monotonic()) + self._limit_s - time.monotonic()) + 1e-3

    def _read(self, worker: _Worker) -> None:
        """Every answer that has come, so that a parent that was busy does not blame a worker."""
        while True:
            try:
                message = worker.pipe.recv_bytes() if worker.pipe.poll() else None
            except (EOFError, OSError):
                self._end(worker, CRASHED)
                return
            if message is None:
                return
            worker.started, kind, value = pickle.loads(message)
            if kind == "raised":
                _raise_here(*value)
            elif kind == "result":
                self._store(worker, value)

    def _store(self, worker: _Worker, value: object) -> None:
        self._found[worker.pending.popleft()] = value
        self._left -= 1
        if self._progress is not None:
            self._progress(1)

    def _end(self, worker: _Worker, reason: str) -> None:
        """The item it worked on is lost; those after it go back to the front of the queue."""
        if worker.pending:
            self._store(worker, Overrun(reason))
        self._todo.extendleft(reversed(worker.pending))
        self._workers.remove(worker)
        self._nursery.end(worker)


def _raise_here(error: Exception | None, text: str) -> NoReturn:
    """Raise what a child raised; ``text`` is its traceback, which pickling loses."""
    cause = RuntimeError(f"in a time-limited process:\n{text}")
    if error is None:
        raise cause
    raise error from cause


def _wait_for(workers: Sequence[_Worker], seconds: float) -> list[_Worker]:
    """The workers with something to read, or none after ``seconds``."""
    ready = wait([worker.pipe for worker in workers], seconds)
    return [worker for worker in workers if worker.pipe in ready]
