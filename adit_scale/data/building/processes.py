"""A function over many arguments, in several processes, a bounded number of them at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from adit_scale.errors import DataError

_WAITING_A_WORKER = 3

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    workers: int,
    done: Callable[[Result], None],
) -> None:
    """Call ``function`` with each argument, and ``done`` with each result, in no certain order.

    workers: processes; 0 is one a core, 1 is this process. A lone argument is worked on here too: starting
    processes takes longer. A few arguments wait for each process and no more, so that memory stays bounded.
    Raises what ``function`` raises, DataError where a process is ended from outside.
    """
    workers = workers or len(os.sched_getaffinity(0))
    if workers > 1:
        ahead = list(islice(arguments := iter(arguments), 2))
        workers = workers if len(ahead) == 2 else 1
        arguments = chain(ahead, arguments)
    if workers > 1:
        _run_apart(function, arguments, workers, done)
    else:
        for argument in arguments:
            done(function(argument))


def _run_apart(
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    workers: int,
    done: Callable[[Result], None],
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adit_scale.data.building.conversion"])  # imported once for all
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, context, _start) as pool:
        waiting: set[Future[Result]] = set()
        try:
            for argument in arguments:
                if len(waiting) >= _WAITING_A_WORKER * workers:
                    waiting = _collect(waiting, done)
                waiting.add(pool.submit(function, argument))
            while waiting:
                waiting = _collect(waiting, done)
        except BrokenProcessPool as error:
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()  # the pool ends the rest by SIGTERM, which they ignore, and waits for them
            raise DataError(
                "a worker process was ended from outside, perhaps for want of memory; lower "
                "data.build_workers and build again: it goes on from what is converted"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(waiting: set[Future[Result]], done: Callable[[Result], None]) -> set[Future[Result]]:
    finished, left = wait(waiting, return_when=FIRST_COMPLETED)
    for future in finished:
        done(future.result())
    return left


def _start() -> None:
    """The parent decides when its workers end; without it they end too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
