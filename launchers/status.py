"""What ``launch.py status`` prints: a summary, a table that fits the terminal, and what failed; or JSON.

Keys of the JSON object (a key that is there stays; a number that is not known is null)::

    study folder launcher submitted user time ended notes gpu_hours process_hours
    points {"total", and of each state that there is the number of points in it}
    jobs [{job kind label id folder state why detail slurm_job hosts user step steps loss loss_of atoms_per_s
           validity {"crystal", "molecule"} time_left_s restarts elapsed_s gpu_hours}]
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from adit_scale.errors import ConfigError
from adit_scale.jobs.node import LOG
from adit_scale.tracking.terminal import format_value
from launchers.record import StudyRecord
from launchers.survey import TROUBLE, JobRow, Survey, survey

COLOURS = {"done": "green", "running": "cyan", "queued": "dim", "waiting": "dim"}
FAILED_COLOURS = dict.fromkeys(TROUBLE, "red")
OTHER_COLOUR = "yellow"
GAP = 2
MIN_STATE = 16  # characters of a terminal, else a quarter of it; "blocked by" names a job
MIN_DETAIL, MAX_DETAIL = 16, 80  # why a job failed stands in full below the table
MAX_FAILURES = 10


@dataclass(frozen=True)
class Column:
    """cell: its text for a job. rank: columns of the highest rank are left out first; 0 is never."""

    name: str
    rank: int
    cell: Callable[[JobRow], str]
    right: bool = False


def status(folder: Path, *, as_json: bool = False, watch: bool = False) -> int:
    """Print how the jobs of the study in ``folder`` stand; with watch, again and again until it ends.

    Returns the exit status. Raises ConfigError where nothing was submitted.
    """
    if as_json and watch:
        raise ConfigError("status: got --json and --watch; expected one of them")
    study = StudyRecord.load(folder)
    if watch:
        from launchers.watch import watch_study

        return watch_study(study)
    found = survey(study)
    if as_json:
        print(json.dumps(as_record(found), indent=1, allow_nan=False))
        return 0
    console = Console(highlight=False)
    lines = page(found, console.width if console.is_terminal else None)
    console.print(Text("\n").join(lines), soft_wrap=True)
    return 0


def page(found: Survey, width: int | None) -> list[Text]:
    """Everything that is printed, by lines. width: characters of the terminal; None where there is none."""
    lines = [Text(summary(found)), *(Text(f"note: {note}", OTHER_COLOUR) for note in found.notes), Text()]
    lines += table(found.rows, width)
    failures = [row for row in found.rows if row.state in ("failed", "lost")]
    if failures:
        lines.append(Text())
    for row in failures[:MAX_FAILURES]:
        log = row.record.folder / LOG
        where = f" ({log})" if log.is_file() else ""
        lines.append(Text(f"{row.record.name} {row.state}: {row.detail}{where}"))
    if len(failures) > MAX_FAILURES:
        lines.append(Text(f"and {len(failures) - MAX_FAILURES} more; see --json"))
    return lines


def summary(found: Survey) -> str:
    """``study demo: 1 of 4 points done, 2 running, 1 queued; 12.5 GPU-hours; folder``."""
    points = found.points
    rest = "".join(f", {n} {state}" for state, n in points.items() if state != "done")
    gpu_hours = sum(row.gpu_hours for row in found.rows)
    hours = gpu_hours or sum(row.process_hours for row in found.rows)
    used = f"{hours:.3g} {'GPU' if gpu_hours else 'process'}-hours used"
    done = all(row.state == "done" for row in found.rows)
    ended = "" if not found.ended else "; ended" if done else "; nothing is running"
    total = sum(points.values())
    counts = f"{points.get('done', 0)} of {total} points done{rest}"
    return f"study {found.study.study}: {counts}; {used}{ended}; {found.study.folder}"


def table(rows: Sequence[JobRow], width: int | None) -> list[Text]:
    """Header and a line a job. Of columns that do not fit the least important are left out; none wraps."""
    cells = {column.name: [column.name, *map(column.cell, rows)] for column in COLUMNS}
    cells["detail"] = [_cut(text, MAX_DETAIL) for text in cells["detail"]]
    if width is not None:
        cells["state"] = [_cut(text, max(MIN_STATE, width // 4)) for text in cells["state"]]
    columns = [column for column in COLUMNS if column.rank == 0 or any(cells[column.name][1:])]
    sizes = {column.name: max(map(len, cells[column.name])) for column in columns}
    while width is not None and _least_width(columns, sizes) > width and any(c.rank for c in columns):
        columns.remove(max(columns, key=lambda column: column.rank))
    lines = [_line([cells[c.name][i] for c in columns], columns, sizes) for i in range(len(rows) + 1)]
    texts = [Text(line if width is None else _cut(line, width)) for line in lines]
    texts[0].stylize("bold")
    first = sizes[columns[0].name] + GAP
    for text, row in zip(texts[1:], rows, strict=True):
        text.stylize(colour(row.state), first, first + sizes["state"])
    return texts


def as_record(found: Survey) -> dict[str, Any]:
    """The object of ``--json``; its keys are in this module's docstring."""
    study, points = found.study, found.points
    return {
        "study": study.study,
        "folder": str(study.folder),
        "launcher": study.launcher,
        "submitted": study.submitted,
        "user": study.user,
        "time": found.time_s,
        "ended": found.ended,
        "notes": list(found.notes),
        "points": {"total": sum(points.values()), **points},
        "gpu_hours": sum(row.gpu_hours for row in found.rows),
        "process_hours": sum(row.process_hours for row in found.rows),
        "jobs": [_job_record(row, study.folder) for row in found.rows],
    }


def colour(state: str) -> str:
    return (COLOURS | FAILED_COLOURS).get(state, OTHER_COLOUR)


def state_text(row: JobRow) -> str:
    """The state with what is to be said about it in a word: ``queued (Priority)``, ``blocked by ...``."""
    if not row.why:
        return row.state
    return f"blocked by {row.why}" if row.state == "blocked" else f"{row.state} ({row.why})"


def _job_record(row: JobRow, study: Path) -> dict[str, Any]:
    node, found = row.record, row.progress
    return {
        "job": node.name,
        "kind": node.kind,
        "label": node.label,
        "id": node.id,
        "folder": os.path.relpath(node.folder, study),
        "state": row.state,
        "why": row.why,
        "detail": row.detail,
        "slurm_job": row.job,
        "hosts": row.hosts,
        "user": row.user,
        "step": found.step,
        "steps": node.steps,
        "loss": _finite(found.loss),
        "loss_of": found.loss_of,
        "atoms_per_s": _finite(found.atoms_per_s),
        "validity": dict(row.validity),
        "time_left_s": row.time_left_s,
        "restarts": row.restarts,
        "elapsed_s": row.elapsed_s,
        "gpu_hours": row.gpu_hours,
    }


def _step(row: JobRow) -> str:
    if row.progress.step is None or row.record.steps is None:
        return ""
    return f"{row.progress.step:,}/{row.record.steps:,}"


def _loss(row: JobRow) -> str:
    if row.progress.loss is None:
        return ""
    return ("train " if row.progress.loss_of == "train" else "") + f"{row.progress.loss:.4g}"


def _validity(row: JobRow) -> str:
    return " ".join(f"{domain[0]} {100 * rate:.0f}%" for domain, rate in row.validity.items())


def _shown(key: str, value: float | None) -> str:
    return "" if value is None else format_value(key, value)


# Validation loss, "train" where there is none yet; validity of crystals (c) and molecules (m).
COLUMNS = (
    Column("job", 0, lambda row: row.record.name),
    Column("state", 0, state_text),
    Column("slurm", 6, lambda row: row.job),
    Column("step", 1, _step, right=True),
    Column("loss", 2, _loss, right=True),
    Column("validity", 4, _validity),
    Column("atoms/s", 8, lambda row: _shown("atoms_per_s", row.progress.atoms_per_s), right=True),
    Column("left", 3, lambda row: _shown("left_s", row.time_left_s), right=True),
    Column("restarts", 9, lambda row: str(row.restarts or ""), right=True),
    Column("elapsed", 7, lambda row: _shown("elapsed_s", row.elapsed_s), right=True),
    Column("detail", 5, lambda row: row.detail),
)


def _least_width(columns: Sequence[Column], sizes: dict[str, int]) -> int:
    """Of a line, the detail cut to what is still worth reading."""
    needed = [min(sizes[c.name], MIN_DETAIL) if c.name == "detail" else sizes[c.name] for c in columns]
    return sum(needed) + GAP * (len(columns) - 1)


def _line(cells: Sequence[str], columns: Sequence[Column], sizes: dict[str, int]) -> str:
    padded = [
        text.rjust(sizes[column.name]) if column.right else text.ljust(sizes[column.name])
        for text, column in zip(cells, columns, strict=True)
    ]
    return (" " * GAP).join(padded).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
