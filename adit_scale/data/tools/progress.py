"""How far long work has come: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

LOG_EVERY_S = 10.0


class ProgressBar:
    """Called with (stage, done, total or None), any number of times a second; use it as a context manager.

    unit: what is counted, "B" for bytes; units: the same for stages that count something else.
    Shows the rate and, where the total is known, the time left.
    """

    def __init__(
        self,
        unit: str,
        stream: TextIO | None = None,
        log_every_s: float = LOG_EVERY_S,
        units: Mapping[str, str] | None = None,
    ) -> None:
        self._usual_unit, self._units = unit, units or {}
        self._stream = stream or sys.stderr
        self._log_every_s = log_every_s
        self._stage = ""
        self._began_s = self._shown_s = time.monotonic()
        self._began_at = self._done = 0
        self._total: int | None = None
        self._bar: Any = _rich_bar(self._stream) if self._stream.isatty() else None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stage()
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        now_s = time.monotonic()
        if stage != self._stage:
            self._end_stage()
            self._stage, self._began_s, self._shown_s = stage, now_s, now_s
            # What an earlier run had done says nothing about how fast this one goes.
            self._began_at = done if total is None or done < total else 0
            if self._bar is not None:
                self._task = self._bar.add_task(stage, total=total, rate="")
        self._done, self._total = done, total
        if self._bar is not None:
            if now_s - self._shown_s >= 0.1:
                self._shown_s = now_s
                self._draw(now_s)
        elif now_s - self._shown_s >= self._log_every_s:
            self._shown_s = now_s
            print(self.line(now_s), file=self._stream, flush=True)

    def say(self, line: str) -> None:
        """Print a line to stdout without spoiling the bar."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    @property
    def _unit(self) -> str:
        return self._units.get(self._stage, self._usual_unit)

    def line(self, now_s: float) -> str:
        """The state as a line of a log."""
        parts = [f"{self._stage}: {self._amounts()}"]
        if rate := self._rate(now_s):
            parts.append(_rate_words(rate, self._unit))
            if self._total is not None and self._done < self._total:
                parts.append(f"{_clock((self._total - self._done) / rate)} left")
        return ", ".join(parts)

    def _amounts(self) -> str:
        if self._unit == "B":
            of = f" of {_bytes_words(self._total)}" if self._total is not None else ""
            return _bytes_words(self._done) + of
        of = f" of {self._total:,}" if self._total is not None else ""
        return f"{self._done:,}{of} {self._unit}"

    def _rate(self, now_s: float) -> float:
        spent_s = now_s - self._began_s
        return (self._done - self._began_at) / spent_s if spent_s > 0.2 else 0.0

    def _draw(self, now_s: float) -> None:
        rate = self._rate(now_s)
        words = f"{self._amounts()}  {_rate_words(rate, self._unit) if rate else ''}"
        self._bar.update(self._task, completed=self._done, total=self._total, rate=words)

    def _end_stage(self) -> None:
        """The last word on a stage; of short ones a log says nothing."""
        if not self._stage:
            return
        now_s = time.monotonic()
        if self._bar is not None:
            self._draw(now_s)
        elif now_s - self._began_s >= self._log_every_s / 2:
            print(self.line(now_s), file=self._stream, flush=True)
        self._stage = ""


def _rich_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(file=stream),
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _rate_words(rate: float, unit: str) -> str:
    return f"{_bytes_words(rate)}/s" if unit == "B" else f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s"


def _bytes_words(n_bytes: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {name}"
    return f"{n_bytes:.0f} B"


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
