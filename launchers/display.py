"""What a running study looks like: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from adit_scale.jobs.node import LOG, failure_reason
from launchers import tails
from launchers.graph import Node

REFRESH_S = 1.0
LOG_EVERY_S = 60.0


@dataclass(frozen=True)
class Row:
    """A node, its state, and for how long it has run (None where it did not run in this launch)."""

    node: Node
    state: str
    seconds: float | None


class Display:
    """Shows rows as they change. ``with display:`` around the run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live: Live | None = None
        self._states: dict[str, str] = {}
        self._shown_s = self._logged_s = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        states = {row.node.id: row.state for row in rows}
        changed = [row for row in rows if self._states.get(row.node.id, "waiting") != row.state]
        # What earlier launches finished is no news.
        changed = [row for row in changed if row.state != "done" or row.seconds is not None]
        now_s = time.monotonic()
        if self._live is not None:
            if changed or now_s - self._shown_s >= REFRESH_S:
                self._live.update(status_table(rows), refresh=True)
                self._shown_s = now_s
        else:
            due = now_s - self._logged_s >= LOG_EVERY_S
            for row in [row for row in rows if due and row.state == "running"] + changed:
                self.console.print(log_line(row), soft_wrap=True, markup=False)
            if due:
                self._logged_s = now_s
        self._states = states


def status_table(rows: Sequence[Row]) -> Table:
    table = Table("job", "state", "time", "", box=None, header_style="bold", pad_edge=False)
    colours = {"done": "green", "running": "cyan", "failed": "red", "stopped": "yellow"}
    for row in rows:
        state = row.state.partition(" ")[0]
        colour = colours.get(state, "yellow" if state == "blocked" else "dim")
        detail = "" if state in ("waiting", "blocked") else progress(row)
        table.add_row(row.node.name, Text(row.state, colour), duration(row.seconds), Text(detail))
    return table


def log_line(row: Row) -> str:
    parts = [time.strftime("%H:%M:%S"), row.node.name, row.state]
    if row.seconds is not None and row.state != "running":
        parts.append(f"after {duration(row.seconds)}")
    detail = progress(row)
    return " ".join(parts) + (f": {detail}" if detail else "")


def progress(row: Row) -> str:
    """How far a running job is, or why one failed; in a few words."""
    node = row.node
    if row.state == "failed":
        return failure_reason(node.folder) or ""
    if row.state != "running":
        return ""
    if node.steps is None:
        return tails.last_line(node.folder / LOG)[:80]
    found = tails.progress(node.folder)
    return f"step {found.step:,} of {node.steps:,}, loss {found.loss:.4g}" if found.step is not None else ""


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
