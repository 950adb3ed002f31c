"""The state of every job of a submitted study: SLURM's word where there is one, else the folders' markers.

Goes by study.json alone: nothing is composed, and of journals and logs only the ends are read.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from adit_scale.errors import DataError
from adit_scale.jobs.attempts import LEDGER, Attempt, attempts
from adit_scale.jobs.node import LOG, failure_reason, is_done, is_running, read_done
from launchers.queue import Accounted, Queued, SlurmSilent, accounted, in_queue
from launchers.record import NodeRecord, StudyRecord
from launchers.tails import Progress, last_line, progress, side_validity, validity

LOCK = "launch.lock"
# All states of a job, the worst first: a point is in the worst of its jobs' that is not done.
STATES = (
    "failed", "lost", "cancelled", "blocked", "stopped", "unknown",
    "retrying", "requeued", "running", "queued", "waiting", "done",
)  # fmt: skip
LIVE = ("retrying", "requeued", "running", "queued", "unknown")  # goes on by itself
TROUBLE = ("failed", "lost", "cancelled")  # needs a person; what is made from it is blocked
STARTED = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED")


@dataclass(frozen=True)
class JobRow:
    """One job of the study, now. Fields that are None are not known, or mean nothing for its kind.

    state: of STATES. why: a word or two about it (the queue's reason, what blocks it). detail: one line: why
    it failed or was started again, else the last line of its log. job, hosts, user: SLURM's. elapsed_s,
    restarts: of all attempts. gpu_hours: of all attempts and ranks; process_hours likewise, without GPUs too.
    validity: share of valid samples (0 to 1) by domain.
    """

    record: NodeRecord
    state: str
    why: str = ""
    detail: str = ""
    job: str = ""
    hosts: str = ""
    user: str = ""
    progress: Progress = field(default_factory=Progress)
    validity: Mapping[str, float] = field(default_factory=dict)
    time_left_s: float | None = None
    restarts: int = 0
    elapsed_s: float | None = None
    gpu_hours: float = 0.0
    process_hours: float = 0.0


@dataclass(frozen=True)
class Survey:
    """notes: what could not be asked. points: number of points by state. ended: nothing goes on by itself."""

    study: StudyRecord
    time_s: float
    rows: Sequence[JobRow]
    notes: Sequence[str]

    @property
    def points(self) -> dict[str, int]:
        states = {row.record.id: row.state for row in self.rows}
        worst: dict[str, str] = {}
        for name, id_ in self.study.nodes[-1].inputs.items():  # the report's: DIFFUSION or EVALUATION/POINT
            kind, _, label = name.partition("/")
            if kind in ("diffusion", "evaluation"):
                worst[label] = min(states[id_], worst.get(label, states[id_]), key=STATES.index)
        return {state: n for state in reversed(STATES) if (n := list(worst.values()).count(state))}

    @property
    def ended(self) -> bool:
        return not any(row.state in LIVE for row in self.rows) and not _lock_held(self.study.folder)


def survey(study: StudyRecord) -> Survey:
    """Ask SLURM once (where the study was ever submitted to it), then look into every folder.

    A SLURM that does not answer is a note, and jobs that only it knows about are "unknown".
    """
    # In this order: what is in no queue after its ledger was read has ended, and left its marker by now.
    notes: list[str] = []
    ledgers: dict[str, Mapping[str, Any]] = {}
    for node in study.nodes:
        try:
            ledgers[node.id] = ledger(node.folder)
        except DataError as error:
            ledgers[node.id] = {}
            notes.append(str(error))
    queue: dict[str, Queued] | None = None
    try:
        queue = _by_node(in_queue(study.folder).values(), {str(one.get("job")) for one in ledgers.values()})
    except SlurmSilent as silent:
        notes.append(str(silent))
    folders = {node.id: node.folder for node in study.nodes}
    looks = [_Look.at(node, folders, ledgers[node.id], queue) for node in study.nodes]
    accounts: dict[str, Accounted] = {}
    try:
        accounts = accounted(look.job for look in looks if look.unexplained)
    except SlurmSilent as silent:
        notes.append(str(silent))
    now_s = time.time()
    states: dict[str, tuple[str, str]] = {}
    rows = []
    launcher_alive = _lock_held(study.folder)
    names = {node.id: node.name for node in study.nodes}
    for look in looks:
        states[look.node.id] = _state(look, accounts.get(look.job), states, names, launcher_alive)
        row = _row(look, accounts.get(look.job), *states[look.node.id], now_s)
        rows.append(row if look.node.folder.parent == study.folder else _of_another(row))
    return Survey(study, now_s, rows, notes)


def _of_another(row: JobRow) -> JobRow:
    """A node that another study finished, and paid for."""
    return replace(row, why=f"in {row.record.folder.parent.name}", gpu_hours=0.0, process_hours=0.0)


def _by_node(jobs: Iterable[Queued], current: set[str]) -> dict[str, Queued]:
    """By name of the node's folder. current: jobs of the ledgers; they count where a node has several, as
    while one that was cancelled is still being cleared up after."""
    return {job.node: job for job in sorted(jobs, key=lambda job: job.job in current) if job.node}


@dataclass(frozen=True)
class _Look:
    """What a node's folder and the queue say. queued: None where it is not in the queue; asked: whether the
    queue was there to ask. done: DONE.json where it counts. failed: why, by its marker."""

    node: NodeRecord
    ledger: Mapping[str, Any]
    asked: bool
    queued: Queued | None
    attempts: Sequence[Attempt]
    done: Mapping[str, Any] | None
    failed: str | None
    running: bool

    @staticmethod
    def at(
        node: NodeRecord,
        folders: Mapping[str, Path],
        ledger: Mapping[str, Any],
        queue: Mapping[str, Queued] | None,
    ) -> _Look:
        folder, queued = node.folder, (queue or {}).get(node.folder.name)
        done, failed = None, None
        try:
            inputs = {name: folders[id_] for name, id_ in node.inputs.items()}
            if is_done(folder, node.id, inputs, node.optional_inputs):
                done = read_done(folder)
            else:
                failed = failure_reason(folder)
        except DataError as error:  # a marker that is no JSON
            failed = str(error)
        running = done is None and queued is None and is_running(folder)
        return _Look(node, ledger, queue is not None, queued, attempts(folder), done, failed, running)

    @property
    def job(self) -> str:
        return self.queued.job if self.queued else str(self.ledger.get("job", ""))

    @property
    def unexplained(self) -> bool:
        """Only the accounting can say what became of its job: no marker does, nor a later launch here."""
        settled = self.done is not None or self.failed is not None or self.running
        here_since = self.last is not None and not self.last.job
        return bool(self.job) and self.queued is None and not settled and not here_since

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None


def _state(
    look: _Look,
    account: Accounted | None,
    states: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
    launcher_alive: bool,
) -> tuple[str, str]:
    """State of a node, and why, given those of its inputs."""
    if look.done is not None:
        return "done", ""
    if look.queued is not None and not (look.queued.state == "COMPLETING" and look.failed is not None):
        return _queued_state(look, look.queued, states, names)
    if look.running:
        return "running", ""
    if blocker := _blocker(look.node, states, names):
        return "blocked", blocker
    if look.failed is not None:
        return "failed", ""
    if look.unexplained:
        return _vanished_state(look, account)
    if look.last is not None and look.last.outcome == "retrying" and launcher_alive:
        return "retrying", _tries(look.last)
    if look.last is not None and look.last.outcome == "stopped":
        return "stopped", ""
    return "waiting", ""


def _queued_state(
    look: _Look,
    queued: Queued,
    states: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
) -> tuple[str, str]:
    """Of a node whose job SLURM has."""
    last = look.last if look.last and look.last.job == queued.job else None
    outcome = last.outcome if last else ""
    if queued.state in STARTED and outcome not in ("retrying", "requeued"):
        return "running", "" if queued.state in ("RUNNING", "COMPLETING") else queued.state.lower()
    until = f"until {clock(queued.eligible_s)}" if queued.reason == "BeginTime" and queued.eligible_s else ""
    if last is not None and outcome == "retrying":
        return "retrying", ", ".join(part for part in (_tries(last), until) if part)
    if queued.restarts or last is not None:
        return "requeued", until or queued.reason
    if queued.reason.startswith("Dependency"):
        if queued.reason != "Dependency" and (blocker := _blocker(look.node, states, names)):
            return "blocked", blocker
        before = (names[id_] for id_ in look.node.inputs.values() if states[id_][0] != "done")
        return "queued", f"after {next(before, queued.reason)}"
    return "queued", until or queued.reason


def _tries(last: Attempt) -> str:
    """``2/4``: which try comes next, and of how many."""
    tries = re.search(r"; try (\d+) of (\d+)$", last.reason)
    return "/".join(tries.groups()) if tries else ""


def _vanished_state(look: _Look, account: Accounted | None) -> tuple[str, str]:
    """Of a node that was given to a job which the queue does not have, and which left no marker."""
    state = account.state if account else ""
    if state == "CANCELLED":
        return "cancelled", ""
    if not look.asked or (account is None and look.ledger.get("user") not in (None, getpass.getuser())):
        known = {"RUNNING": "running", "PENDING": "queued", "REQUEUED": "requeued"}
        return known.get(state, "lost" if state else "unknown"), "" if state in known else state
    if state in ("FAILED", "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"):
        return "failed", "" if state == "FAILED" else state
    return "lost", state


def _blocker(node: NodeRecord, states: Mapping[str, tuple[str, str]], names: Mapping[str, str]) -> str:
    """The name of the job at the root of what keeps this one from ever running; "" where nothing does."""
    if node.optional_inputs:
        return ""
    for id_ in node.inputs.values():
        state, why = states[id_]
        if state in TROUBLE:
            return names[id_]
        if state == "blocked":
            return why
    return ""


def _row(look: _Look, account: Accounted | None, state: str, why: str, now_s: float) -> JobRow:
    node, live = look.node, state == "running"
    last_start_s = look.last.start_s if look.last else 0.0
    found = Progress() if node.steps is None else progress(node.folder, last_start_s)
    left_s = None
    if live and found.step is not None and found.step_s is not None and node.steps is not None:
        left_s = (node.steps - found.step) * found.step_s
    spans = _spans(look, live, now_s)
    process_s = sum(seconds * attempt.tasks for attempt, seconds in zip(look.attempts, spans, strict=True))
    with_gpus = node.resources.get("gpus_per_node") or node.resources.get("gres")
    return JobRow(
        record=node,
        state=state,
        why=why,
        detail=_detail(look, account, state),
        job=look.job,
        hosts=look.queued.hosts if look.queued else "",
        user=look.queued.user if look.queued else str(look.ledger.get("user", "")),
        progress=found,
        validity=_validity(look),
        time_left_s=left_s,
        restarts=max(len(look.attempts) - 1, look.queued.restarts if look.queued else 0, 0),
        elapsed_s=sum(spans) if spans else _marked_wall_s(look),
        gpu_hours=process_s / 3600 if with_gpus else 0.0,
        process_hours=process_s / 3600,
    )


def _spans(look: _Look, live: bool, now_s: float) -> list[float]:
    """Seconds of each attempt. One that was killed without a word lasted until its log was last written."""
    starts = [attempt.start_s for attempt in look.attempts]
    spans = []
    for i, attempt in enumerate(look.attempts):
        end_s = attempt.end_s
        if end_s is None:
            is_last = i + 1 == len(starts)
            log = look.node.folder / LOG
            written_s = log.stat().st_mtime if log.is_file() else attempt.start_s
            end_s = now_s if live and is_last else min([written_s, *starts[i + 1 :]])
        spans.append(max(0.0, end_s - attempt.start_s))
    return spans


def _marked_wall_s(look: _Look) -> float | None:
    """Of a node without a list of attempts."""
    return float(look.done["wall_s"]) if look.done else None


def _validity(look: _Look) -> dict[str, float]:
    """Of the final samples where they are scored, else of the newest that were drawn beside the training."""
    if look.node.kind == "diffusion":
        return side_validity(look.node.folder)
    scores = look.done.get("scores", {}) if look.done else {}
    return validity({name: rate["value"] for name, rate in scores.items()})


def _detail(look: _Look, account: Accounted | None, state: str) -> str:
    before = next((a.reason for a in reversed(look.attempts) if a.reason), "")
    if state == "failed" and look.failed is not None:
        return look.failed
    if state == "cancelled":
        return "launch again to run it"
    if state in ("failed", "lost"):
        ended = f"ended as {account.state} ({account.exit_code})" if account else "is in no queue"
        return f"job {look.job} {ended}; launch again to run it"
    if state == "unknown":
        user = look.ledger.get("user")
        return f"job {look.job} of {user}: SLURM does not tell you about it" if look.asked else ""
    if state in ("retrying", "requeued", "stopped"):
        return before
    if state == "running":
        line = "" if look.node.steps is not None else last_line(look.node.folder / LOG)
        return line or (f"again after: {before}" if before else "")
    return ""


def ledger(folder: Path) -> dict[str, Any]:
    """slurm_job.json: which job the node was last given to. Raises DataError where it is damaged."""
    path = folder / LEDGER
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); remove it: squeue tells what still waits") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: got a {type(found).__name__}; remove it: squeue tells what still waits")
    return found


def _lock_held(study: Path) -> bool:
    """Whether a launcher, or jobs it left, work on the study."""
    path = study / LOCK
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def clock(time_s: float) -> str:
    """Time of day; with the date where that is another one.

    >>> len(clock(0.0)), len(clock(time.time()))
    (16, 8)
    """
    then = datetime.fromtimestamp(time_s)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M")
