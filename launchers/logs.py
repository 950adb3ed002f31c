"""``launch.py logs``: what a job printed, all attempts in one file; or why it has printed nothing yet."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from adit_scale.errors import ConfigError
from adit_scale.jobs.node import DONE, FAILED, LOG
from launchers.queue import SUBMISSIONS
from launchers.record import NodeRecord, StudyRecord
from launchers.status import state_text
from launchers.survey import LIVE, JobRow, Survey, ledger, survey

LINES = 200
POLL_S = 0.5
ASK_S = 10.0  # between questions to SLURM while the log is silent
BLOCK_BYTES = 1 << 16


def logs(folder: Path, name: str, follow: bool = False, lines: int = LINES) -> int:
    """Print the last ``lines`` of a job's log; with follow, what comes after them until the job has ended.

    name: a point (its training run), a kind ("report"), both ("evaluation dit_64"), or a node's folder.
    Returns 0, or 1 where a followed job ended without being done. Raises ConfigError for an unknown name.
    """
    study = StudyRecord.load(folder)
    node = find(study, name)
    place = _print_last(node.folder / LOG, lines)
    if place == 0:
        _explain(study, node, lines)
    if not follow:
        return 0
    try:
        return _follow(study, node, place)
    except KeyboardInterrupt:
        return 0


def find(study: StudyRecord, name: str) -> NodeRecord:
    """The one job that is meant. Raises ConfigError where there is none, or several."""
    found = study.find(name)
    runs = [node for node in found if node.kind == "diffusion" and node.label == name]
    if len(found) > 1 and len(runs) != 1:
        names = ", ".join(f"'{node.name}'" for node in found[:8])
        raise ConfigError(f"{name}: {len(found)} jobs of study {study.study}; expected one, such as {names}")
    return (runs or found)[0]


def _follow(study: StudyRecord, node: NodeRecord, place: int) -> int:
    path, asked_s = node.folder / LOG, 0.0
    while True:
        # Looked at before the log: what it says last is then printed too.
        marked = any((node.folder / marker).is_file() for marker in (DONE, FAILED))
        state = ""
        if marked or time.monotonic() - asked_s > ASK_S:
            found = survey(study)
            row = _row(found, node)
            state = row.state if found.ended or row.state not in (*LIVE, "waiting") else ""
            asked_s = time.monotonic()
        end = _print_from(path, place)
        if end != place:
            place, asked_s = end, time.monotonic()
        if state:
            return int(state != "done")
        time.sleep(POLL_S)


def _print_last(path: Path, lines: int) -> int:
    """Returns where the printed part ends; 0 where there is no log."""
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        place = end = stream.seek(0, 2)
        data = b""
        while place and data.count(b"\n") <= lines:
            begin = max(0, place - BLOCK_BYTES)
            stream.seek(begin)
            data, place = stream.read(place - begin) + data, begin
    kept = data[: end - place].splitlines(keepends=True)[-lines:] if lines > 0 else []
    _write(b"".join(kept))
    return end


def _print_from(path: Path, place: int) -> int:
    """Print what was added since; from the beginning where the file was made anew."""
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(place if size >= place else 0)
        _write(stream.read())
        return stream.tell()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _explain(study: StudyRecord, node: NodeRecord, lines: int) -> None:
    """Where a job without a log is, and what its batch script said."""
    row = _row(survey(study), node)
    job = f", job {row.job}" if row.job else ""
    print(
        f"{node.name}: {state_text(row)}{job}; no log yet" + (f" ({row.detail})" if row.detail else ""),
        flush=True,
    )
    submission = ledger(node.folder).get("submission", "")
    out = study.folder / SUBMISSIONS / submission / f"{row.job}.out"
    if row.job and submission and out.is_file() and out.stat().st_size:
        print(f"its batch script said ({out}):", flush=True)
        _print_last(out, lines)


def _row(found: Survey, node: NodeRecord) -> JobRow:
    return next(row for row in found.rows if row.record.id == node.id)
