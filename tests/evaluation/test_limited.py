"""Calls with a time limit: hung, crashed and raising functions, order, overhead, no orphans."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adit_scale.evaluation.limited import CRASHED, OVER_TIME, Overrun, map_limited
from tests.conftest import REPO
from tests.evaluation.limited_functions import double, misbehave, parent_of_worker, threads_and_pid
from tests.processes import hear_ctrl_c


def children(parent: int) -> list[int]:
    """Live processes (no zombies) that ``parent`` started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def workers() -> list[int]:
    """Live processes that a nursery of this process forked."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(os.getpid())}
    return [worker for pid, words in commands.items() if b"nursery_main" in words for worker in children(pid)]


def test_bad_calls_are_cut_off_and_the_others_go_on_in_order() -> None:
    """Among 24 items: hangs (asleep and busy), deaths of three kinds; every other result is there."""
    items: list[str | int] = [1, "hang", 2, "segfault", 3, "spin", 4, "kill", "exit", *range(5, 20)]
    done: list[int] = []
    began = time.monotonic()
    found = map_limited(misbehave, items, limit_s=0.4, processes=2, progress=done.append)
    took = time.monotonic() - began
    fate = {"hang": Overrun(OVER_TIME), "spin": Overrun(OVER_TIME)}
    fate |= dict.fromkeys(("segfault", "kill", "exit"), Overrun(CRASHED))
    assert found == [fate.get(item, item) for item in items]
    assert sum(done) == len(items)
    assert took < 10
    assert not workers()


def test_the_limit_is_of_one_call_not_of_its_chunk() -> None:
    """60 items of 50 ms on one process come in chunks; none is over 0.5 s of its own."""
    items = [50] * 60
    assert map_limited(misbehave, items, limit_s=0.5, processes=1) == items


def test_a_call_that_ends_near_its_limit_is_kept() -> None:
    assert map_limited(misbehave, [300, 1200], limit_s=0.8, processes=2) == [300, Overrun(OVER_TIME)]


@pytest.mark.parametrize(
    ("item", "error", "text"),
    [
        ("raise", OSError, "no such bond"),
        ("awkward", RuntimeError, "Awkward"),
        ("unpicklable", Exception, "lambda"),
    ],
)
def test_an_exception_is_raised_here(item: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        map_limited(misbehave, [1, 2, item, 3], limit_s=5, processes=2)
    assert "limited_functions.py" in str(raised.value) + str(raised.value.__cause__) or item == "unpicklable"
    assert not workers()


def test_a_function_that_cannot_be_loaded_is_an_error() -> None:
    gone = functools.partial(double)
    with pytest.raises(Exception, match=r"pickle|local"):
        map_limited(lambda item: gone(item), [1], limit_s=1, processes=1)
    assert not workers()


def nursery() -> int:
    [answer] = map_limited(parent_of_worker, [0], limit_s=5, processes=1)
    assert not isinstance(answer, Overrun)
    return answer


def test_the_imports_are_made_once() -> None:
    """A second call finds the process of the first; one that died is replaced."""
    first = nursery()
    assert nursery() == first
    os.kill(first, signal.SIGKILL)
    time.sleep(0.05)
    assert nursery() != first


def test_a_thread_has_its_own() -> None:
    found: list[object] = []
    thread = threading.Thread(
        target=lambda: found.extend(map_limited(double, [1, 2, 3], limit_s=5, processes=1))
    )
    thread.start()
    thread.join()
    assert found == [2, 4, 6]
    assert map_limited(double, [4], limit_s=5, processes=1) == [8]


def test_inline_and_empty() -> None:
    done: list[int] = []
    assert map_limited(double, [3, 1], limit_s=1, processes=0, progress=done.append) == [6, 2]
    assert done == [1, 1]
    assert map_limited(double, [], limit_s=1, processes=4) == []


def test_children_are_single_threaded_few_and_deaf_to_signals() -> None:
    found = map_limited(threads_and_pid, list(range(40)), limit_s=5, processes=2)
    answers = [answer for answer in found if not isinstance(answer, Overrun)]
    assert [threads for threads, _ in answers] == ["1"] * 40
    pids = {pid for _, pid in answers}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert map_limited(misbehave, ["interrupt"], limit_s=5, processes=1) == ["interrupt"]


def test_overhead_is_under_a_millisecond_an_item() -> None:
    """4,000 items that take no time, less what starting the processes takes (a run of one item)."""

    def seconds(items: list[int]) -> float:
        began = time.monotonic()
        assert map_limited(double, items, limit_s=5, processes=2) == [2 * item for item in items]
        return time.monotonic() - began

    start = min(seconds([0]) for _ in range(2))
    each = min(seconds(list(range(4000))) - start for _ in range(2)) / 4000
    assert each < 1e-3, f"{1e3 * each:.3f} ms"


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans(how: signal.Signals, tmp_path: Path) -> None:
    """A parent that is interrupted or killed takes its hung children with it."""
    program = (
        "from adit_scale.evaluation.limited import map_limited\n"
        "from tests.evaluation.limited_functions import note_pid_and_hang\n"
        f"map_limited(note_pid_and_hang, [{str(tmp_path)!r}] * 2, limit_s=600, processes=2)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPO,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    os.killpg(parent.pid, how)  # as a terminal's Ctrl-C does: to the whole group
    _, errors = parent.communicate(timeout=20)
    assert (b"KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    pids = [int(file.name) for file in tmp_path.iterdir()]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
