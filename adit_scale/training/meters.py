"""What a run measures between two log lines: sums of the loss on the device, and where the time went.

All durations come from ``time.monotonic``: a clock that is set moves none of them.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from adit_scale.training.mfu import Peak, utilisation

# The phases of a step in the order a rank goes through them, as heartbeats and stacks name them.
PHASES = ("data", "compute", "exchange", "log", "validate", "samples", "agree", "save")
NOT_TRAINING = ("start", "validate", "samples", "save")  # left out of a step's time
GIB = 1024**3


class Meters:
    """Quotients of sums by name, plus the step's loss and gradient norm. All sums are float64.

    ``state`` is saved with a checkpoint: an interval cut by a restart ends with the same means.
    """

    def __init__(self, device: torch.device):
        self._device = device
        # Made once: to make it on the device is to wait for the device.
        self._share = torch.tensor(1.0 / dist.get_world_size(), dtype=torch.float64, device=device)
        self._sums: dict[str, Tensor] = {}

    def add(self, sums: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add numerators and denominators of one batch."""
        for name, pair in sums.items():
            value = torch.stack([x.detach().double() for x in pair])
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def add_step(self, loss_part: Tensor, gradient_norm: Tensor) -> None:
        """Add one applied step: this rank's part of its loss, and the norm that all ranks share.

        The denominators count ranks' shares of a step, so that sums over ranks give means over steps.
        """
        share = self._share
        self.add({"loss": (loss_part, share), "gradient_norm": (gradient_norm.double() * share, share)})

    def means(self) -> dict[str, float]:
        """Means over all ranks since the last call, NaN where nothing was counted; then starts anew.

        A collective call where there are several ranks.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        table = torch.stack([self._sums[name] for name in names])
        if dist.get_world_size() > 1:
            dist.all_reduce(table)
        self._sums = {}
        return {
            name: numerator / denominator if denominator else math.nan
            for name, (numerator, denominator) in zip(names, table.tolist(), strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        return dict(self._sums)

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._sums = {name: value.to(self._device) for name, value in state.items()}


@dataclass(frozen=True)
class Phase:
    """What a rank is doing, at which step, since when (``time.monotonic``)."""

    name: str
    step: int
    since_s: float


class Phases:
    """This rank's present phase, for the watchdog, and the seconds each phase took, for the log line.

    ``enter`` keeps everything in memory. Products on CUDA run behind the program, so there the seconds of
    "compute" are taken between two events of the device.
    """

    def __init__(self, device: torch.device):
        self.current = Phase("start", 0, time.monotonic())
        self._seconds: dict[str, float] = {}
        self._mark_s = self.current.since_s
        self._cuda = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def enter(self, name: str, step: int) -> None:
        """The phase before ends here."""
        now_s = time.monotonic()
        before = self.current.name
        self._seconds[before] = self._seconds.get(before, 0.0) + now_s - self._mark_s
        self._mark_s = now_s
        self.current = Phase(name, step, now_s)
        if self._cuda and name == "compute":
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        elif self._cuda and before == "compute":
            self._events[-1][1].record()

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call. Ask outside "compute", when a step's norm has been read."""
        self.enter(self.current.name, self.current.step)
        seconds, self._seconds = self._seconds, {}
        if self._cuda:
            seconds["compute"] = sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
            self._events.clear()
        return seconds


class Speed:
    """Turns the seconds of an interval's phases into what the log line and the journal's clock show.

    begin: step, atoms and FLOPs of the run so far, as ``interval`` takes them.
    """

    def __init__(self, device: torch.device, peak: Peak | None, begin: tuple[int, int, float]):
        self._device, self.peak = device, peak
        self._begin = self._mark = begin
        self._began_s, self._training_s = time.monotonic(), 0.0
        self._memory_gib = 0.0

    def interval(self, seconds: dict[str, float], step: int, atoms: int, flops: float) -> dict[str, float]:
        """``atoms_per_s``, ``step_s``, ``mfu`` (0 to 1, where the device is known), ``data_wait_percent``,
        ``memory_gib`` (of the fullest rank) and, of the time that each rank needs by itself for a step,
        ``step_s_median``, ``step_s_max`` and ``slowest_rank``.

        step, atoms, flops (of matrix products): of the run so far, all ranks. A rank's own time ends where it
        begins to exchange gradients (ZeRO 3 exchanges earlier: there ranks look alike). A collective call.
        """
        steps, atoms_done, flops_done = step - self._mark[0], atoms - self._mark[1], flops - self._mark[2]
        self._mark = (step, atoms, flops)
        training_s = sum(s for name, s in seconds.items() if name not in NOT_TRAINING)
        own_s = seconds.get("data", 0.0) + seconds.get("compute", 0.0)
        memory_gib = peak_memory_gib(self._device)
        rows = self._gather([own_s / max(1, steps), seconds.get("data", 0.0), memory_gib])
        own_r, data_r, memory_r = rows.T
        self._training_s += training_s
        self._memory_gib = float(memory_r.max())
        clock: dict[str, float] = {
            "step_s": training_s / max(1, steps),
            "atoms_per_s": atoms_done / training_s if training_s else math.nan,
            "data_wait_percent": 100 * float(data_r.max()) / training_s if training_s else math.nan,
            "memory_gib": float(memory_r.max()),
            "step_s_median": float(own_r.median()),  # of an even number the lower: 2 ranks can differ
            "step_s_max": float(own_r.max()),
            "slowest_rank": int(own_r.argmax()),
        }
        mfu = utilisation(flops_done, training_s, len(rows), self.peak)
        return clock if mfu is None else clock | {"mfu": mfu}

    def total(self) -> dict[str, float]:
        """Of this attempt up to the last log line: wall_s, training_s, mean atoms_per_s, mfu, memory_gib."""
        atoms, flops = self._mark[1] - self._begin[1], self._mark[2] - self._begin[2]
        values = {
            "wall_s": time.monotonic() - self._began_s,
            "training_s": self._training_s,
            "atoms_per_s": atoms / self._training_s if self._training_s else math.nan,
            "memory_gib": self._memory_gib,
        }
        mfu = utilisation(flops, self._training_s, dist.get_world_size(), self.peak)
        return values if mfu is None else values | {"mfu": mfu}

    def _gather(self, row: list[float]) -> Tensor:
        """``(ranks, len(row))`` float64 on the CPU."""
        mine = torch.tensor(row, dtype=torch.float64, device=self._device)
        if dist.get_world_size() == 1:
            return mine[None].cpu()
        rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, mine)
        return torch.stack(rows).cpu()


def peak_memory_gib(device: torch.device) -> float:
    """The most this process has held so far: allocated on its GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
