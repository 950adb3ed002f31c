"""Signals that ask a run to stop: noted when they come, acted on together at a step boundary.

SLURM sends USR1 or USR2 ahead of a time limit and TERM on preemption; a person sends INT. A collective call
inside a handler deadlocks, so the handler only sets a flag; the flag is agreed across ranks once a step. A
second signal of the same kind ends the process at once.
"""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as dist

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run me again


class StopRequest:
    """Install with ``with StopRequest() as stop``; ask ``stop.agreed(device)`` once a step."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)

    def agreed(self, device: torch.device) -> bool:
        """True on every rank if any rank was asked to stop. A collective call."""
        if dist.get_world_size() == 1:
            return self.signal_name is not None
        flag = torch.tensor([self.signal_name is not None], dtype=torch.int32, device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
