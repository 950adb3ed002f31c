"""What a person sees of long work: a progress bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

# What a line shows behind the losses, and under which name; anything else is left to the journal.
SHOWN_LAST = {
    "lr": "lr",
    "gradient_norm": "grad",
    "skipped_steps": "skipped",
    "atoms_per_s": "atoms/s",
    "mfu": "mfu",
    "memory_gib": "mem",
    "data_wait_percent": "data wait",
    "time_left_s": "left",
}
LOSS_AT_TIME = "loss/t_"  # losses by diffusion time: a dozen numbers too many for a line


class Progress:
    """Shows how far a job of ``total`` steps is; a context manager.

    On a terminal: a bar, with one line above it for each ``line`` and ``note``. In a log: the lines and
    notes, and ``advance`` only when nothing else was printed for ``interval_s``. Nothing where not
    ``enabled`` (all ranks but the first).
    """

    def __init__(
        self,
        total: int,
        name: str,
        enabled: bool = True,
        *,
        stream: TextIO | None = None,
        interval_s: float = 30.0,
    ) -> None:
        self.total, self.name, self.enabled, self.interval_s = total, name, enabled, interval_s
        self._stream = stream if stream is not None else sys.stderr
        self._began: tuple[int, float] | None = (
            None  # first step seen and when: the work may be a resumed one
        )
        self._printed_s = time.monotonic()
        self._bar: RichProgress | None = None
        if enabled and self._stream.isatty():
            self._bar = _rich_bar(Console(file=self._stream))
            self._task = self._bar.add_task(name, total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """``step`` steps of the total are done."""
        if not self.enabled:
            return
        self._observe(step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        elif time.monotonic() - self._printed_s >= self.interval_s:
            self.line(step, {})

    def line(self, step: int, values: Mapping[str, float | str]) -> None:
        """Print one line for an interval's values (see ``format_line``), with the time left."""
        if not self.enabled:
            return
        self._observe(step)
        left_s = self.time_left_s(step)
        shown = values if left_s is None else {**values, "time_left_s": left_s}
        self.note(format_line(self.name, step, self.total, shown))

    def note(self, text: str) -> None:
        """Print one line of text."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)
        self._printed_s = time.monotonic()

    def time_left_s(self, step: int) -> float | None:
        """Seconds left at the speed since the first step seen; None before the second."""
        if self._began is None or step <= self._began[0]:
            return None
        first_step, began_s = self._began
        return (self.total - step) * (time.monotonic() - began_s) / (step - first_step)

    def _observe(self, step: int) -> None:
        if self._began is None:
            self._began = (step, time.monotonic())


def format_line(name: str, step: int, total: int, values: Mapping[str, float | str]) -> str:
    """One line of a log: step, losses (by data set), learning rate, gradient norm, speed, time left.

    >>> format_line("diffusion", 40, 200, {"loss": 1.25, "loss/qm9": 1.5, "lr": 1e-4, "atoms_per_s": 21300})
    'diffusion  40/200  loss 1.25  qm9 1.5  lr 1.0e-04  atoms/s 21.3k'
    """
    by_data_set = (key for key in values if key.startswith("loss/") and not key.startswith(LOSS_AT_TIME))
    shown = {"loss": "loss", **{key: key.removeprefix("loss/") for key in by_data_set}, **SHOWN_LAST}
    parts = [f"{label} {format_value(key, values[key])}" for key, label in shown.items() if key in values]
    if not values.get("skipped_steps", 1):
        parts.remove("skipped 0")
    return "  ".join([name, f"{step:>{len(str(total))}}/{total}", *parts])


def format_summary(name: str, step: int, values: Mapping[str, float | str]) -> str:
    """The last line of a run.

    >>> format_summary("diffusion", 40, {"skipped_steps": 1, "wall_s": 200, "checkpoints": 2})
    'diffusion finished  steps 40  skipped 1  took 3m20s  checkpoints 2'
    """
    labels = {
        "skipped_steps": "skipped",
        "spikes": "loss spikes",
        "sets_seen": "sets",
        "atoms_seen": "atoms",
        "wall_s": "took",
        "training_s": "training",
        "atoms_per_s": "atoms/s",
        "mfu": "mfu",
        "memory_gib": "mem",
        "validation/loss": "validation loss",
        "checkpoints": "checkpoints",
    }
    parts = [f"{label} {format_value(key, values[key])}" for key, label in labels.items() if key in values]
    return "  ".join([f"{name} finished", f"steps {step}", *parts])


def format_value(key: str, value: float | str) -> str:
    """A value as short as its key allows: durations (``_s``), speeds (``_per_s``), learning rates, others.

    >>> [format_value(k, v) for k, v in {"time_left_s": 3725, "lr": 1e-4, "atoms_per_s": 2.5e6}.items()]
    ['1h02m', '1.0e-04', '2.5M']
    """
    if isinstance(value, str):
        return value
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if key.endswith("_per_s"):
        return _with_prefix(value)
    if key.endswith("_s"):
        return _duration(value)
    if key.endswith("_gib"):
        return f"{value:.2f} GiB"
    if key.endswith("_percent"):
        return f"{value:.1f}%"
    if key in ("atoms_seen", "sets_seen"):
        return _with_prefix(value)
    if key == "lr" or key.endswith("/lr"):
        return f"{value:.1e}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _with_prefix(value: float) -> str:
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    """``42s``, ``3m20s``, ``1h02m``, ``3d04h``."""
    whole = round(seconds)
    for big, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{big}{whole % size // part:02d}{small}"
    return f"{whole}s"


def _rich_bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
