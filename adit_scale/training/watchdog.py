"""Heartbeats, and the end of a run that hangs.

    RUN/heartbeat/rank-00000.json   step, phase and how long it has lasted, written every few seconds
    RUN/heartbeat/ABORT             the rank that found a hang, for the others to see
    RUN/stacks/step-00000123/rank-00000.txt   what every thread of every rank was doing

A rank waiting for another in a collective call cannot be asked anything, so every rank has a thread that
looks at its own clock. The first to find its phase too long raises the flag; all write their stacks and leave
with EXIT_REQUEUE, for a hang is most often the machine's. A rank that is stopped or gone cannot write its
stack: its last heartbeat says where it was.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist

from adit_scale.training.exit_codes import EXIT_REQUEUE
from adit_scale.training.meters import PHASES, Phases

HEARTBEAT_S = 5.0  # between two heartbeats of a rank
GRACE_S = 10.0  # for all ranks to see the flag and write their stacks
SUSPENDED_S = 30.0  # this thread late by more than this: the whole process was not running


@dataclass(frozen=True)
class Heartbeat:
    """time_s: of writing, seconds since 1970. phase_s: how long the phase had lasted then."""

    rank: int
    step: int
    phase: str
    phase_s: float
    time_s: float
    monotonic_s: float
    pid: int
    host: str
    attempt: str


class Patience:
    """How long a phase may last. Asked every ``poll_s``; a 0 timeout never ends."""

    def __init__(self, timeout_s: float, poll_s: float) -> None:
        self._timeout_s, self._gap_s = timeout_s or math.inf, poll_s + SUSPENDED_S
        self._awake_s = -math.inf  # when the process last went on after it had been suspended
        self._asked_s: float | None = None

    def ends(self, since_s: float, now_s: float) -> bool:
        """Whether a phase that began at ``since_s`` counts as hung; time spent suspended does not count."""
        if self._asked_s is not None and now_s - self._asked_s > self._gap_s:
            self._awake_s = now_s
        self._asked_s = now_s
        return now_s - max(since_s, self._awake_s) > self._timeout_s


class Watchdog:
    """Runs beside the training loop from ``with`` to its end. A collective call at the start.

    hang_timeout_s: the longest a phase may last; 0 only writes heartbeats.
    """

    def __init__(
        self,
        run_folder: Path,
        phases: Phases,
        hang_timeout_s: float,
        heartbeat_s: float = HEARTBEAT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.folder, self._stacks = run_folder / "heartbeat", run_folder / "stacks"
        self._phases, self.hang_timeout_s = phases, hang_timeout_s
        self.grace_s = min(grace_s, hang_timeout_s)
        self._poll_s = min(heartbeat_s, hang_timeout_s / 4) if hang_timeout_s else heartbeat_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._last_resort: TextIO | None = None

    def __enter__(self) -> Watchdog:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The flag of an attempt before must not end this one, however late its deletion is seen elsewhere.
        token = [uuid.uuid4().hex]
        if self.rank == 0:
            (self.folder / "ABORT").unlink(missing_ok=True)
        if self.world_size > 1:
            dist.broadcast_object_list(token)
        self.attempt = token[0]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._last_resort:
            faulthandler.cancel_dump_traceback_later()
            self._last_resort.close()

    # -- the thread ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        written_s = -math.inf
        patience = Patience(self.hang_timeout_s, self._poll_s)
        while True:
            self._arm_last_resort()
            phase, now_s = self._phases.current, time.monotonic()
            late = patience.ends(phase.since_s, now_s)
            if late or now_s - written_s >= self._poll_s:
                self._beat()
                written_s = now_s
            if late:
                self._raise_flag()
            if (flag := self._flag()) is not None:
                self._leave(flag)
            if self._end.wait(self._poll_s):
                return

    def _beat(self) -> None:
        phase, now_s = self._phases.current, time.monotonic()
        beat = Heartbeat(
            rank=self.rank,
            step=phase.step,
            phase=phase.name,
            phase_s=round(now_s - phase.since_s, 3),
            time_s=time.time(),
            monotonic_s=now_s,
            pid=os.getpid(),
            host=socket.gethostname(),
            attempt=self.attempt,
        )
        with suppress(OSError):  # a full disk ends saves, not the watch
            _replace(self.folder / f"rank-{self.rank:05d}.json", json.dumps(asdict(beat)) + "\n")

    def _raise_flag(self) -> None:
        """The first rank to see a hang writes the flag; later ones leave it as it is."""
        if self._flag() is not None:
            return
        phase = self._phases.current
        flag = {
            "attempt": self.attempt,
            "rank": self.rank,
            "step": phase.step,
            "phase": phase.name,
            "phase_s": round(time.monotonic() - phase.since_s, 3),
        }
        try:
            _replace(self.folder / "ABORT", json.dumps(flag) + "\n")
        except OSError:  # then the others have to find out by themselves
            self._leave(flag)

    def _flag(self) -> dict[str, Any] | None:
        """The flag of this attempt, or None."""
        try:
            flag = json.loads((self.folder / "ABORT").read_text())
        except (OSError, json.JSONDecodeError):
            return None
        return flag if flag["attempt"] == self.attempt else None

    def _leave(self, flag: dict[str, Any]) -> None:
        """Write this rank's stacks, wait for the others', and end the process, whatever goes wrong."""
        try:
            folder = self._stacks / f"step-{flag['step']:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            stack = folder / f"rank-{self.rank:05d}.txt"
            with stack.with_suffix(".part").open("w") as stream:
                faulthandler.dump_traceback(stream, all_threads=True)
            stack.with_suffix(".part").replace(stack)
            self._beat()
            missing = self._wait_for_stacks(folder)
            if flag["rank"] == self.rank:
                line = describe_hang(flag, self._heartbeats(), missing, folder)
                print(line, file=sys.__stderr__, flush=True)
        finally:
            os._exit(EXIT_REQUEUE)

    def _wait_for_stacks(self, folder: Path) -> list[int]:
        """The ranks that have not written theirs when the grace is over."""
        deadline_s = time.monotonic() + max(self.grace_s, 2 * self._poll_s)
        while True:
            missing = [r for r in range(self.world_size) if not (folder / f"rank-{r:05d}.txt").is_file()]
            if not missing or time.monotonic() > deadline_s:
                return missing
            time.sleep(0.05)

    def _heartbeats(self) -> list[Heartbeat]:
        beats = [Heartbeat(**json.loads(path.read_text())) for path in self.folder.glob("rank-*.json")]
        return [beat for beat in beats if beat.attempt == self.attempt]

    def _arm_last_resort(self) -> None:
        """For a call that never lets go of the interpreter, and so stops this thread too: a timer in C.

        It writes stacks and ends nothing: it cannot tell a hang from a job that was suspended and goes on.
        """
        if not self.hang_timeout_s:
            return
        if self._last_resort is None:
            self._last_resort = (self.folder / f"rank-{self.rank:05d}.stack.txt").open("w")
        timeout_s = self.hang_timeout_s + 2 * (self.grace_s + self._poll_s)
        faulthandler.dump_traceback_later(timeout_s, file=self._last_resort)


def slowest(beats: Iterable[Heartbeat], missing: list[int]) -> Heartbeat | None:
    """The rank most likely to hold the others up: one that cannot answer, else the one furthest behind."""
    order = {name: i for i, name in enumerate(PHASES)}
    ranked = sorted(beats, key=lambda b: (b.rank not in missing, b.step, order.get(b.phase, -1), -b.phase_s))
    return ranked[0] if ranked else None


def describe_hang(flag: dict[str, Any], beats: list[Heartbeat], missing: list[int], folder: Path) -> str:
    """One line: who found the hang, who is furthest behind and where, and where the stacks are."""
    line = (
        f"hang: rank {flag['rank']} has been in {flag['phase']} of step {flag['step']} "
        f"for {flag['phase_s']:.0f} s"
    )
    if (behind := slowest(beats, missing)) is not None:
        line += (
            f"; the slowest is rank {behind.rank} ({behind.host}), last seen in {behind.phase} "
            f"of step {behind.step}"
        )
        if behind.rank in missing:
            line += f" {time.time() - behind.time_s:.0f} s ago; it no longer answers, so it left no stack"
    return f"{line}; stacks in {folder}; leaving to be started again (parallel.hang_timeout_s)"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)
