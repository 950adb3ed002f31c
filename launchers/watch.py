"""``launch.py status --watch``: the same table, drawn again every few seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from launchers.record import StudyRecord
from launchers.status import page, summary, table
from launchers.survey import TROUBLE, JobRow, Survey, survey

REFRESH_S = 5.0


def watch_study(study: StudyRecord, console: Console | None = None) -> int:
    """Until the study ends or Ctrl-C. In a log, a line whenever the summary's counts change.

    Returns 0, or 1 where the study ended without being done.
    """
    console = console or Console(highlight=False)
    try:
        found = _draw(study, console) if console.is_terminal else _lines(study, console)
    except KeyboardInterrupt:
        return 0  # looking on is over, not the study
    return int(any(row.state != "done" for row in found.rows))


def _draw(study: StudyRecord, console: Console) -> Survey:
    """The last survey; the whole page stays on the screen."""
    found = survey(study)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while not found.ended:
                live.update(Group(*screenful(found, *console.size)), refresh=True)
                time.sleep(REFRESH_S)
                found = survey(study)
        except KeyboardInterrupt:
            live.transient = False  # what was seen last stays
            raise
    console.print(Text("\n").join(page(found, console.width)), soft_wrap=True)
    return found


def _lines(study: StudyRecord, console: Console) -> Survey:
    shown: dict[str, int] | None = None
    while True:
        found = survey(study)
        if found.points != shown or found.ended:
            console.print(f"{time.strftime('%H:%M:%S')} {summary(found)}", soft_wrap=True, markup=False)
            shown = found.points
        if found.ended:
            return found
        time.sleep(REFRESH_S)


def screenful(found: Survey, width: int, height: int) -> list[Text]:
    """Lines that fit. Where not all jobs do, those that are done or only wait are left out first."""
    head = [*page(found, width)[: 2 + len(found.notes)]]
    room = height - len(head) - 3  # the table's header, the line that counts what is left out, the cursor's
    rows = _most_telling(found.rows, max(room, 1))
    lines = [*head, *table(rows, width)]
    if len(rows) < len(found.rows):
        lines.append(Text(f"and {len(found.rows) - len(rows)} more jobs: launch.py status", "dim"))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def _most_telling(rows: Sequence[JobRow], n: int) -> list[JobRow]:
    """At most n rows, in the order of the study."""
    if len(rows) <= n:
        return list(rows)
    order = [
        *TROUBLE,
        "unknown",
        "retrying",
        "requeued",
        "running",
        "stopped",
        "queued",
        "blocked",
        "waiting",
    ]
    places = {state: i for i, state in enumerate([*order, "done"])}
    kept = sorted(range(len(rows)), key=lambda i: (places[rows[i].state], i))[:n]
    return [rows[i] for i in sorted(kept)]
