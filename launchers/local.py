"""The local launcher: a study's jobs as processes of this machine, at most ``launcher.parallel`` at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from adit_scale.jobs.attempts import append_end, append_start, verdict
from adit_scale.jobs.node import ATTEMPT, DONE, FAILED, LOG, NodeFolder, failed_for_good, failure_reason
from adit_scale.jobs.notify import POINT_FAILED, notify
from launchers.display import Display, Row
from launchers.graph import Graph, Node, blocked_by, is_done
from launchers.tails import last_line

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.2


@dataclass
class _Job:
    node: Node
    process: subprocess.Popen
    log: IO[bytes]
    start_s: float


@dataclass
class LocalRun:
    """Runs what is left of a graph.

    state: by node id, one of waiting, running, done, failed, stopped, "blocked by NODE".

    parallel: jobs at once. lock: a descriptor every job inherits (see ``study_lock``).
    on_start, on_end: told of every node that starts and ends, for example to mirror its journal.
    grace_s: how long a stopped job may take to save its state before it is killed.

    retries, backoff_s: of a crashed job, as in LauncherConfig. A run that leaves by itself with its state
    saved is always started again. only: ids of the nodes that may run; None is all.
    """

    graph: Graph
    parallel: int
    display: Display
    lock: int | None = None
    on_start: Callable[[Node], None] = lambda node: None
    on_end: Callable[[Node, str], None] = lambda node, state: None
    grace_s: float = 60.0
    retries: int = 0
    backoff_s: float = 0.0
    only: set[str] | None = None
    state: dict[str, str] = field(default_factory=dict)
    stop_signal: int = 0
    _jobs: list[_Job] = field(default_factory=list)
    _stop_s: float = 0.0
    _seconds: dict[str, float] = field(default_factory=dict)
    _not_before_s: dict[str, float] = field(default_factory=dict)  # of jobs that are tried again

    def run(self) -> dict[str, str]:
        """Returns the state of every node once nothing more can run, or after a stop signal."""
        for node in self.graph.nodes:
            # Whatever an input that is made again may change is looked at when that input has ended.
            open_inputs = any(self.state[source.id] == "waiting" for source in node.inputs.values())
            self.state[node.id] = "done" if is_done(node) and not open_inputs else "waiting"
        with self._signals(), self.display:
            try:
                while True:
                    self._reap()
                    self._advance()
                    self.display.show(self._rows())
                    if not self._jobs and (self.stop_signal or not self._not_before_s):
                        return self.state
                    time.sleep(POLL_S)
            finally:
                self._kill_all()

    def _advance(self) -> None:
        """Start what is ready; once stopping, only wait, and kill what outlives the grace time."""
        if self.stop_signal:
            if time.monotonic() - self._stop_s > self.grace_s:
                self._kill_all()
            return
        self._mark_blocked()
        ready = []
        for node in self.graph.nodes:
            if self.state[node.id] == "waiting" and self._ready(node):
                if is_done(node):
                    self.state[node.id] = "done"
                elif self._may_start(node):
                    ready.append(node)
        for node in sorted(ready, key=lambda n: -n.cost)[: self.parallel - len(self._jobs)]:
            self._start(node)

    def _ready(self, node: Node) -> bool:
        states = [self.state[source.id] for source in node.inputs.values()]
        if node.optional_inputs:
            return not any(s in ("waiting", "running") for s in states) and "done" in states
        return all(s == "done" for s in states)

    def _may_start(self, node: Node) -> bool:
        asked_for = self.only is None or node.id in self.only
        return asked_for and time.monotonic() >= self._not_before_s.get(node.id, 0.0)

    def _mark_blocked(self) -> None:
        for node in self.graph.nodes:
            if self.state[node.id] != "waiting":
                continue
            blockers = blocked_by(node, self.state)
            alive = [s for s in node.inputs.values() if self.state[s.id] in ("waiting", "running", "done")]
            if blockers and not (node.optional_inputs and alive):
                self.state[node.id] = f"blocked by {blockers[0].name}"

    def _start(self, node: Node) -> None:
        (node.folder / FAILED).unlink(missing_ok=True)
        (node.folder / DONE).unlink(missing_ok=True)
        self._not_before_s.pop(node.id, None)
        append_start(node.folder, tasks=node.processes)
        log = (node.folder / LOG).open("ab")
        log.write(f"{ATTEMPT}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        log.flush()
        process = subprocess.Popen(
            node.command or (sys.executable, "-m", "adit_scale.jobs", str(node.folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | job_environment(node, self._at_once(node)),
            start_new_session=True,  # a Ctrl-C at the terminal reaches the launcher alone
            pass_fds=() if self.lock is None else (self.lock,),
        )
        self._jobs.append(_Job(node, process, log, time.monotonic()))
        self.state[node.id] = "running"
        self.on_start(node)

    def _at_once(self, node: Node) -> int:
        """How many jobs like this one may share the machine."""
        return min(self.parallel, 1 + len(self.graph.beside(node)))

    def _reap(self) -> None:
        for job in list(self._jobs):
            code = job.process.poll()
            if code is None:
                self._seconds[job.node.id] = time.monotonic() - job.start_s
                continue
            job.log.close()
            self._jobs.remove(job)
            self.state[job.node.id] = self._outcome(job.node, code)
            if self.state[job.node.id] != "waiting":  # to be tried again
                self.on_end(job.node, self.state[job.node.id])

    def _outcome(self, node: Node, code: int) -> str:
        if is_done(node):
            append_end(node.folder, code, "done", "")
            return "done"
        if self.stop_signal:
            (node.folder / FAILED).unlink(missing_ok=True)  # it was asked to stop: nothing failed
            append_end(node.folder, code, "stopped", signal.Signals(self.stop_signal).name)
            return "stopped"
        reason = failure_reason(node.folder) or exit_reason(node, code)
        final = failed_for_good(node.folder)
        found = verdict(
            node.folder, code, "", reason, final=final, retries=self.retries, backoff_s=self.backoff_s
        )
        append_end(node.folder, code, found.outcome, found.reason)
        if found.again:
            (node.folder / FAILED).unlink(missing_ok=True)
            self._not_before_s[node.id] = time.monotonic() + found.wait_s
            return "waiting"
        NodeFolder.load(node.folder).fail(found.reason, self._seconds.get(node.id, 0.0), final=True)
        notify(POINT_FAILED, node.config.sweep.name, node.name, found.reason, log=node.folder / LOG)
        return "failed"

    def _rows(self) -> list[Row]:
        return [Row(node, self.state[node.id], self._seconds.get(node.id)) for node in self.graph.nodes]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """First signal: every job may save and leave. A second one ends the waiting."""
        if self.stop_signal:
            self.grace_s = 0.0
            return
        self.stop_signal, self._stop_s = number, time.monotonic()
        for job in self._jobs:
            _signal_group(job.process, signal.SIGTERM)

    def _kill_all(self) -> None:
        for job in self._jobs:
            _signal_group(job.process, signal.SIGKILL)


def job_environment(node: Node, at_once: int) -> dict[str, str]:
    """CPU threads of a job's processes: as set, or the machine's cores shared by all processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = node.config.parallel.threads or max(1, cores // (at_once * node.processes))
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


def exit_reason(node: Node, code: int) -> str:
    """One line about a job that ended without saying why."""
    if code == 0:
        return f"ended without {DONE}; see {node.folder / LOG}"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory? set launcher.parallel=1 or a smaller parallel.micro_batch_atoms)"
        return f"killed by {name}{hint if -code == signal.SIGKILL else ''}"
    return last_line(node.folder / LOG) or f"ended with status {code}"


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it may just have ended by itself
        os.killpg(process.pid, number)
