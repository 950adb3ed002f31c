"""A look at a few steps with torch.profiler: ``RUN/profile/trace.json`` and ``table.txt``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile

from adit_scale.training.config import profiled_steps

ROWS = 40


class StepProfiler:
    """Profiles the steps named by ``steps`` ("10-12", as log lines count them; "" for none) on one rank.

    A context manager; call ``before(step)`` and ``after(step)`` around every step. A run that ends inside the
    range writes what it has. Trace: open chrome://tracing or ui.perfetto.dev.
    """

    def __init__(self, steps: str, folder: Path, enabled: bool) -> None:
        self.folder = folder
        self._first, self._last = (profiled_steps(steps) if enabled else None) or (0, 0)
        self._profile: profile | None = None

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._write()

    def before(self, step: int) -> None:
        if self._first <= step <= self._last and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.start()

    def after(self, step: int, note: Callable[[str], None]) -> None:
        """Behind the last step of the range, write the files and ``note`` where they are."""
        if self._profile is not None and step >= self._last:
            self._write()
            note(f"profile of steps {self._first} to {self._last}: {self.folder / 'trace.json'}, table.txt")

    def _write(self) -> None:
        assert self._profile is not None
        self._profile.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self.folder / "trace.json"))
        on = "device" if torch.cuda.is_available() else "cpu"
        table = self._profile.key_averages().table(sort_by=f"self_{on}_time_total", row_limit=ROWS)
        (self.folder / "table.txt").write_text(table + "\n")
        self._profile = None
