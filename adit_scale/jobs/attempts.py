"""The attempts at a node, one line a start and one an end (attempts.jsonl), and what follows from an end.

SLURM's supervisor (batch.py) and the local launcher ask here whether a job that ended is started again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adit_scale.training.exit_codes import EXIT_REQUEUE

ATTEMPTS = "attempts.jsonl"
LEDGER = "slurm_job.json"  # the job that a launch gave the node to
# What a line of each event has; one that lacks any is passed over.
KEYS: dict[str, tuple[str, ...]] = {
    "start": ("time", "job", "host", "nodes", "tasks"),
    "end": ("time", "code", "outcome", "reason", "saved"),
}
CRASHED = ("retrying", "failed")
TIME_LIMIT = "time limit"
NO_PROGRESS_LIMIT = 3  # attempts in a row that saved nothing new: the time limit is too short for a step
MAX_BACKOFF_S = 3600.0


@dataclass(frozen=True)
class Attempt:
    """start_s, end_s: since the epoch; end_s, code and outcome are None and "" while it runs or was killed.

    outcome: done, failed; stopped (asked to, from outside); requeued (asked to, goes on by itself); retrying
    (after a crash). saved: what was on disk at the end, see ``progress``.
    """

    start_s: float
    job: str = ""
    host: str = ""
    nodes: str = ""
    tasks: int = 1
    end_s: float | None = None
    code: int | None = None
    outcome: str = ""
    reason: str = ""
    saved: int = 0


def append_start(folder: Path, job: str = "", nodes: str = "", tasks: int = 1) -> None:
    """Note that an attempt begins on this machine."""
    record = {"event": "start", "time": time.time(), "job": job, "host": socket.gethostname()}
    _append(folder, {**record, "nodes": nodes, "tasks": tasks})


def append_end(folder: Path, code: int, outcome: str, reason: str) -> None:
    """Note how the attempt ended. code: as of subprocess, negative for a signal."""
    record = {"event": "end", "time": time.time(), "code": code, "outcome": outcome, "reason": reason}
    _append(folder, {**record, "saved": progress(folder)})


def attempts(folder: Path) -> list[Attempt]:
    """In the order in which they began. A line that a crash tore is passed over."""
    found: list[Attempt] = []
    for record in _records(folder / ATTEMPTS):
        if record.get("event") == "start":
            found.append(
                Attempt(record["time"], record["job"], record["host"], record["nodes"], record["tasks"])
            )
        elif record.get("event") == "end" and found:
            begun = found.pop()
            end = {
                "end_s": record["time"],
                **{key: record[key] for key in ("code", "outcome", "reason", "saved")},
            }
            found.append(replace(begun, **end))
    return found


def forget_crashes(folder: Path) -> None:
    """A person asks for another try: crashes before now do not count any more."""
    if (folder / ATTEMPTS).is_file():
        _append(folder, {"event": "asked", "time": time.time()})


@dataclass(frozen=True)
class Verdict:
    """What follows from the end of an attempt. again: start once more, after wait_s seconds."""

    outcome: str
    reason: str
    again: bool = False
    wait_s: float = 0.0


def verdict(
    folder: Path, code: int, asked: str, reason: str, *, final: bool, retries: int, backoff_s: float
) -> Verdict:
    """Judge an attempt that ended with ``code`` and left no DONE.json.

    asked: what had asked it to stop ("" if nothing). final: it said why it failed, and trying again meets the
    same. reason: one line for a crash.
    """
    ends = _ends(folder)
    saved_before = ends[-1]["saved"] if ends else 0
    if asked == TIME_LIMIT and (stalled := _stalled(ends, progress(folder))) >= NO_PROGRESS_LIMIT:
        return Verdict(
            "failed",
            f"{stalled} attempts in a row met the time limit before anything new was saved; raise "
            "launcher.time_min (of this size or kind)",
        )
    if asked:
        return Verdict("requeued", asked, again=True)
    if code == EXIT_REQUEUE and progress(folder) > saved_before:
        return Verdict("requeued", "stopped with its state saved", again=True)
    if final:
        return Verdict("failed", reason)
    crashes = 1 + (_crashes(ends) if progress(folder) <= saved_before else 0)
    if crashes > retries:
        tried = f" (tried {crashes} times; launcher.retries={retries})" if retries else ""
        return Verdict("failed", f"{reason}{tried}")
    wait_s = min(backoff_s * 2 ** (crashes - 1), MAX_BACKOFF_S)
    return Verdict("retrying", f"{reason}; try {crashes + 1} of {retries + 1}", again=True, wait_s=wait_s)


def progress(folder: Path) -> int:
    """What a node has on disk that its next attempt goes on from: a run's steps, an evaluation's batches."""
    steps = [int(p.parent.name.rpartition("-")[2]) for p in folder.glob("checkpoints/step-*/COMMITTED")]
    return max(steps, default=0) + sum(1 for _ in folder.glob("samples/parts/*.safetensors"))


def _ends(folder: Path) -> list[dict[str, Any]]:
    """Ends of attempts since a person last asked for another try."""
    ends: list[dict[str, Any]] = []
    for record in _records(folder / ATTEMPTS):
        if record.get("event") == "asked":
            ends = ends[-1:] and [{**ends[-1], "outcome": "asked"}]
        elif record.get("event") == "end":
            ends.append(record)
    return ends


def _crashes(ends: list[dict[str, Any]]) -> int:
    """Crashes in a row at the end, none of which saved anything new after the one before."""
    count = 0
    for i in range(len(ends) - 1, -1, -1):
        if ends[i]["outcome"] not in CRASHED:
            break
        count += 1
        if ends[i]["saved"] > (ends[i - 1]["saved"] if i else 0):
            break
    return count


def _stalled(ends: list[dict[str, Any]], saved: int) -> int:
    """Attempts in a row, this one included, that met the time limit and left the same on disk."""
    count = 1
    for record in reversed(ends):
        if record["reason"] != TIME_LIMIT or record["saved"] != saved:
            break
        count += 1
    return count


def _append(folder: Path, record: dict[str, Any]) -> None:
    """One write of one line, on the disk before anything else happens."""
    with (folder / ATTEMPTS).open("ab") as stream:
        stream.write((json.dumps(record) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and all(key in record for key in KEYS.get(str(record.get("event")), ())):
            yield record
