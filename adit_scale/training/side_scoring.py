"""Validity curves without a stall: samples are drawn and scored in a process beside the training.

At a due step the run copies its EMA weights and goes on. A thread writes the copy (training/snapshots.py),
and a process of the lowest priority, started by rank 0, draws samples from it and scores them. The run takes
up what is there whenever it logs. Results go, in the order of their steps, into a journal of their own:

    RUN/scoring/journal.jsonl

The run's own journal is written at the pace of the steps and holds the same records however often the run was
killed; when a score arrives is a matter of time. Kept apart, both are exact: a resumed run cuts this journal
behind the step it goes on from and takes the snapshots up to it from the disk, so that no point is lost or
doubled. Mirrors write both into one run. Nothing that goes wrong here ends or holds up the training: a step
that could not be scored is an event (``samples_failed``, ``samples_skipped``) with its reason.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.errors import DataError, one_line
from adit_scale.models.config import DenoiserConfig
from adit_scale.tracking.journal import FILE_NAME, SIDE_FOLDER, Journal, scan
from adit_scale.training import snapshots
from adit_scale.training.snapshots import FAILED, SKIPPED
from adit_scale.training.writer import Snapshot

GIB = 1 << 30
PATIENCE_S = 1.0  # with the snapshot before that is still being written, until this one is skipped
LAST_WORDS_S = 60.0  # how long a run that ends lets its last snapshot reach the disk
SHOWN = ("crystal/validity", "molecule/edm_validity")  # rates of the line on the terminal
# Of the ranks' rendezvous: nothing of the process beside them.
_FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


class SideScoring:
    """All ranks hold one and ask ``due``; rank 0 opens it, which makes the rest work.

    command: the program that scores, given the scoring folder, this process's id and ``idle`` or ``usual``
    (its priority) as last words; it must die with this process.
    """

    def __init__(self, run_folder: Path, config: StudyConfig, command: Sequence[str]) -> None:
        self.root, self._config, self._command = run_folder / SIDE_FOLDER, config, list(command)
        self._settings, self._every = config.diffusion.scoring, config.diffusion.samples_every_steps
        self.n_scored, self.n_failed, self.n_skipped, self.stalled_s = 0, 0, 0, 0.0
        self._outstanding: deque[int] = deque()  # handed over, not yet in the journal; ascending
        self._lost: dict[int, str] = {}  # of these, what could not be written at all: why
        self._stalls: dict[int, float] = {}  # seconds the training stood still for a step's snapshot
        self._writing: threading.Thread | None = None
        self._writing_step = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._idle = self._child_idle = True  # the process takes only what the training leaves
        self._life: tuple[object, float] = (None, 0.0)  # last sign of life, and since when it is the last
        self._journal: Journal | None = None
        self._note: Callable[[str], None] = print

    def due(self, step: int) -> bool:
        return bool(self._every) and step > 0 and step % self._every == 0

    # -- on rank 0 -----------------------------------------------------------------------------------------

    def open(self, step: int, device: torch.device, note: Callable[[str], None]) -> bool:
        """Take up what the folder holds for a run that goes on behind ``step`` (0: a new one).

        Returns whether ``step`` is due and its snapshot missing: the run was killed before it was written.
        """
        self._note, self._copy = note, Snapshot(device)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            settings.save(self._config, self.root / snapshots.SETTINGS)
            snapshots.forget(self.root, after=step)
            journaled = self._open_journal(step)
        except OSError as error:
            note(f"no samples will be scored: {one_line(error)}")
            return False
        self._outstanding.extend(s for s in snapshots.steps(self.root) if s not in journaled)
        missing = self.due(step) and step not in journaled and step not in self._outstanding
        self.collect()
        return missing

    def hand_over(
        self,
        step: int,
        weights: dict[str, Tensor],
        network: DenoiserConfig,
        values: Mapping[str, float],
        last: bool = False,
    ) -> None:
        """Copy the weights and begin to write them; the caller may change them at once.

        last: of the run; it is never skipped. values: of the run at this step, for the journal.
        """
        if self._journal is None:
            return
        begin = time.monotonic()
        self.collect()
        if self._writing is not None:  # with due steps seconds apart only
            self._writing.join(LAST_WORDS_S if last else PATIENCE_S)
        n_bytes = self._copy.plan(weights) if not self._is_writing() else 0
        reason = self._full(n_bytes) if not last else None
        self._outstanding.append(step)
        if reason:
            self._end(step, SKIPPED, reason)
        else:
            self._copy.take(weights)
            words, self._writing_step = (step, network, dict(values)), step
            self._writing = threading.Thread(target=self._write, args=words, name="snapshot", daemon=True)
            self._writing.start()
            if last:
                self._idle = False
            self._start()
        self._stalls[step] = time.monotonic() - begin
        self.stalled_s += self._stalls[step]

    def collect(self) -> None:
        """Journal what has been scored since, in the order of steps, and look after the process."""
        while self._outstanding:
            step = self._outstanding[0]
            result = self._result(step)
            if result is None:
                break
            self._record(step, result)
            self._outstanding.popleft()
            self._lost.pop(step, None)
        self._look_after()

    def left(self, waited_s: float) -> int:
        """How many snapshots a finished run still has to wait for, after a look at what has come; 0 once it
        has waited for ``wait_s``: the rest is then given up."""
        self.collect()
        if self._outstanding and self._child_idle:
            self._no_longer_idle()
        if self._outstanding and waited_s > self._settings.wait_s:
            self._stop()
            for step in list(self._outstanding):
                self._end(step, FAILED, f"the run ended (diffusion.scoring.wait_s={self._settings.wait_s:g})")
            self.collect()
        return len(self._outstanding)

    def wait_written(self, before: int | None = None) -> None:
        """Until the snapshot in flight is on the disk. before: only if it is of an earlier step.

        A checkpoint of a later step must not be without it; one of the same step brings it back (``open``).
        """
        if self._writing is not None and (before is None or self._writing_step < before):
            self._writing.join(LAST_WORDS_S)

    def summary(self) -> str:
        """One line for the end of the run; "" where nothing was due."""
        counts = {"scored": self.n_scored, "failed": self.n_failed, "skipped": self.n_skipped}
        if not any(counts.values()):
            return ""
        parts = [f"{name} {n}" for name, n in counts.items() if n]
        return "  ".join(["samples", *parts, f"training stood still {self.stalled_s:.2f}s"])

    def close(self) -> None:
        """End the process; what it had not finished stays on the disk for the next start."""
        self.wait_written()
        self._stop()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> SideScoring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._child.pid if self._child is not None else None

    # -- snapshots -----------------------------------------------------------------------------------------

    def _is_writing(self) -> bool:
        return self._writing is not None and self._writing.is_alive()

    def _full(self, n_bytes: int) -> str | None:
        """Why another snapshot of so many bytes may not wait, or None."""
        if self._is_writing():
            return "the snapshot before is still being written"
        n = sum(self._result(step) is None for step in self._outstanding)
        if n and (n + 1) * n_bytes > self._settings.queue_gib * GIB:
            return f"{n} snapshots wait already (diffusion.scoring.queue_gib={self._settings.queue_gib:g})"
        return None

    def _write(self, step: int, network: DenoiserConfig, values: dict[str, float]) -> None:
        try:
            snapshots.write(self.root, step, self._copy.content(), network, values)
        except OSError as error:
            self._lost[step] = f"the snapshot could not be written: {one_line(error)}"

    # -- results -------------------------------------------------------------------------------------------

    def _open_journal(self, step: int) -> set[int]:
        """Cut behind ``step``; returns the steps that it holds. One that is damaged is made again from the
        results, which are all on the disk."""
        path = self.root / FILE_NAME
        try:
            self._journal = Journal(self.root)
            held: set[int] = set()
            for line in scan(path):
                if line.record["step"] > step:
                    self._journal.truncate(line.start)
                    break
                held.add(line.record["step"])
            return held
        except DataError as error:
            self._note(f"{one_line(error)}: made again from the results beside it")
            path.unlink()
            self._journal = Journal(self.root)
            return set()

    def _result(self, step: int) -> dict[str, Any] | None:
        if step in self._lost:
            return {"event": FAILED, "reason": self._lost[step]}
        try:
            return snapshots.read_result(self.root, step)
        except (OSError, ValueError) as error:
            return {"event": FAILED, "reason": f"its result cannot be read: {error}"}

    def _record(self, step: int, result: Mapping[str, Any]) -> None:
        """One record in the journal and one line on the terminal."""
        assert self._journal is not None
        if "event" in result:
            self.n_failed += result["event"] == FAILED
            self.n_skipped += result["event"] == SKIPPED
            self._journal.log_event(result["event"], step, {"reason": result["reason"]})
            self._note(f"samples of step {step}: none: {result['reason']}")
        else:
            self.n_scored += 1
            clock = {f"samples_{key}": value for key, value in result["clock"].items() if key != "time_s"}
            if step in self._stalls:
                clock["samples_stall_s"] = self._stalls[step]
            clock["time_s"] = result["clock"]["time_s"]
            self._journal.log_metrics(step, result["values"], clock)
            self._note(f"samples of step {step}: {_shown(result['values'])}")
        self._stalls.pop(step, None)
        self._journal.flush()

    def _end(self, step: int, event: str, reason: str) -> None:
        """Write down that a step has no scores, unless its result came after all."""
        if self._result(step) is not None:
            return
        try:
            snapshots.write_result(self.root, step, {"event": event, "reason": reason})
        except OSError:
            self._lost[step] = reason  # it stands in the journal at least

    # -- the process ---------------------------------------------------------------------------------------

    def _waiting(self) -> list[int]:
        return snapshots.waiting(self.root) if self._outstanding else []

    def _look_after(self) -> None:
        """Start the process where there is work; end it where it has stopped giving signs of life."""
        waiting = self._waiting()
        status = None if self._child is None else self._child.poll()
        if status is not None:
            self._child = None
        if not waiting:
            return
        if status is not None:
            self._end(waiting[0], FAILED, f"the scoring process ended ({status}): {self._last_words()}")
        elif self._child is not None and self._silent_s(waiting[0]) > self._settings.limit_s:
            self._stop()
            limit = f"diffusion.scoring.limit_s={self._settings.limit_s:g}"
            self._end(waiting[0], FAILED, f"the scoring process gave no sign of life within {limit}")
        self._start()

    def _start(self) -> None:
        if self._child is not None:
            return
        try:
            with (self.root / snapshots.LOG).open("ab") as log:
                self._child_idle = self._idle
                # In this session: another would be, to some schedulers, another user with a share of its own.
                self._child = subprocess.Popen(
                    [*self._command, str(self.root), str(os.getpid()), "idle" if self._idle else "usual"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                )
        except OSError as error:
            for step in self._waiting():
                self._end(step, FAILED, f"the scoring process could not be started: {one_line(error)}")
        self._life = (None, time.monotonic())

    def _no_longer_idle(self) -> None:
        """The training is over: other programs on the machine must not hold the rest up for long.

        The system lets few processes rise, so it is started anew, which costs it the samples in work.
        """
        self._idle = self._child_idle = False
        n = sum(self._result(step) is None for step in self._outstanding)
        self._note(f"waiting for the scores of {n} snapshot{'s' * (n > 1)}")
        self._stop()
        self._start()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        threads = str(self._settings.threads)
        kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        return kept if self._settings.device == "cuda" else {**kept, "CUDA_VISIBLE_DEVICES": ""}

    def _silent_s(self, step: int) -> float:
        """Seconds since the last sign of life, or since the process turned to ``step``."""
        mark: object = step
        with suppress(OSError):
            mark = (step, (self.root / snapshots.PROGRESS).stat().st_mtime_ns)
        if mark != self._life[0]:
            self._life = (mark, time.monotonic())
        return time.monotonic() - self._life[1]

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = (self.root / snapshots.LOG).read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1]
        return "no output"

    def _stop(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        self._child = None


def _shown(values: Mapping[str, float]) -> str:
    parts = []
    for name in SHOWN:
        if (key := f"samples/{name}") in values:
            value, lower, upper = (100 * values[key + end] for end in ("", "_lower", "_upper"))
            parts.append(f"{name} {value:.1f}% ({lower:.1f} to {upper:.1f})")
    return ", ".join(parts) or "scored"
