"""Requests to stop: noted when they come, acted on together at a step boundary.

SLURM sends USR1 or USR2 ahead of a time limit and TERM on preemption; a person sends INT; ``wall_time_s`` is
a limit of our own. A collective call inside a signal handler deadlocks, so a signal only sets a flag; the
flag is agreed across ranks once a step, all ranks save, and the process ends with EXIT_REQUEUE. A second TERM
or INT ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from adit_scale.training.exit_codes import EXIT_FORCED

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
FORCING = (signal.SIGTERM, signal.SIGINT)  # USR1 and USR2 only warn: a late warning must not cost the save
# The scheduler and torchrun's agent both pass on a request: copies that come together are one request.
REPEAT_S = 1.0

_WALL_TIME = 1000  # no signal has this number
_IMPORTED_S = time.monotonic()


class StopRequest:
    """Install with ``with StopRequest(wall_time_s) as stop``; ask ``stop.agreed(device)`` once a step.

    wall_time_s: seconds since the process started after which it asks itself to stop; 0 is no limit. The step
    and the save that are then still to come take time of their own.
    """

    def __init__(self, wall_time_s: float = 0.0) -> None:
        self._deadline_s = time.monotonic() + wall_time_s - process_age_s() if wall_time_s else None
        self._wall_time_s = wall_time_s
        self._request = 0  # a signal's number, or _WALL_TIME
        self._asked_s: float | None = None  # when the first TERM or INT came
        self._answer: _Answer | None = None  # of the ranks, to the last call of ``agreed``
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Python runs handlers between two of its own instructions, which a process stuck in a collective call
        # never reaches. The wake-up pipe is written at once, and a thread of its own reads it.
        receive, self._send = os.pipe()
        os.set_blocking(self._send, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._send, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, _nothing)
        self._reader = threading.Thread(target=self._read, args=(receive,), name="signals", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._send)
        self._reader.join()

    def _read(self, receive: int) -> None:
        while numbers := os.read(receive, 16):
            for number in numbers:
                if number in STOP_SIGNALS:
                    self._note(number)
        os.close(receive)

    def _note(self, number: int) -> None:
        self._request = self._request or number
        if number not in FORCING:
            return
        now_s = time.monotonic()
        if self._asked_s is None:
            self._asked_s = now_s
        elif now_s - self._asked_s >= REPEAT_S:
            line = f"second {signal.Signals(number).name}: left at once, without saving\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
            os._exit(EXIT_FORCED + number)

    @property
    def reason(self) -> str:
        """What asked this run to stop, after ``agreed``; "" while nothing did."""
        if not self._request:
            return ""
        if self._request == _WALL_TIME:
            return f"parallel.wall_time_s={self._wall_time_s:g} is used up"
        return signal.Signals(self._request).name

    def agreed(self, device: torch.device) -> bool:
        """True on every rank if any rank was asked to stop. A collective call.

        Several ranks on CUDA learn of it one call later: to read an answer at once is to wait for the device.
        """
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            self._request = self._request or _WALL_TIME
        if dist.get_world_size() == 1:
            return bool(self._request)
        request = torch.full((1,), self._request, dtype=torch.int32, device=device)
        dist.all_reduce(request, op=dist.ReduceOp.MAX)
        before, self._answer = self._answer, _Answer(request)
        known = before if request.is_cuda else self._answer
        agreed = known.read() if known else 0
        self._request = agreed or self._request
        return bool(agreed)


class _Answer:
    """A number on its way from the device."""

    def __init__(self, value: torch.Tensor) -> None:
        self._value, self._here = value, None
        if value.is_cuda:
            self._value = torch.empty_like(value, device="cpu", pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._here = torch.cuda.Event()
            self._here.record()

    def read(self) -> int:
        if self._here is not None:
            self._here.synchronize()
        return int(self._value.item())


def process_age_s() -> float:
    """Seconds since this process started (on Linux; elsewhere since this file was imported)."""
    stat = Path("/proc/self/stat")
    if not (stat.is_file() and hasattr(time, "CLOCK_BOOTTIME")):
        return time.monotonic() - _IMPORTED_S
    started_ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler has to be there for the wake-up pipe to be written."""
