"""The supervisor of a SLURM job: ``python -m adit_scale.jobs.batch SUBMISSION_FOLDER`` as its batch script.

Runs one node of a study as a child, and decides what follows from its end: done; queued again because the
time limit was near or the job is being moved; tried again after a crash, ever later; or failed for good. It
needs no torch, and outlives whatever happens to the child. SUBMISSION_FOLDER/nodes.json maps elements of the
job's array to node folders, and holds the settings of launchers/config.py that matter here.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from adit_scale.errors import AditError
from adit_scale.jobs.attempts import LEDGER, TIME_LIMIT, Verdict, append_end, append_start, verdict
from adit_scale.jobs.node import (
    ATTEMPT,
    DONE,
    FAILED,
    LOG,
    NodeFolder,
    failed_for_good,
    failure_reason,
)
from adit_scale.jobs.notify import POINT_FAILED, notify, study_ended
from adit_scale.jobs.training import BY_SRUN_VARIABLE, CONTAINER_VARIABLE
from adit_scale.tracking.config import URI_VARIABLE
from adit_scale.tracking.follower import Follower

SUBMISSION = "nodes.json"
TRAINING = ("autoencoder", "diffusion")
CALL_S = 30.0  # for scontrol and squeue
POLL_S = 0.1
TAIL_BYTES = 4096


@dataclass
class Supervisor:
    """One attempt at one node inside one SLURM job."""

    node: NodeFolder
    settings: dict[str, Any]
    job: str
    asked: str = ""  # what asked this attempt to stop
    _child: subprocess.Popen[bytes] | None = None
    _follower: Follower | None = None

    def run(self) -> int:
        """Returns the exit status of the job: 0 unless the node failed for good or was stopped."""
        folder = self.node.path
        if self.node.is_done():
            print(f"{folder.name}: done already")
            return 0
        (folder / DONE).unlink(missing_ok=True)
        (folder / FAILED).unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        environment = os.environ
        append_start(
            folder,
            self.job,
            environment.get("SLURM_JOB_NODELIST", ""),
            int(environment.get("SLURM_NTASKS", "1")),
        )
        with (folder / LOG).open("ab") as log:
            log.write(f"{ATTEMPT}{time.strftime('%Y-%m-%d %H:%M:%S')} job {self.job}\n".encode())
            log.flush()
            # What it says goes to this script's own output: the log's last line is the job's.
            self._follower = Follower(folder, environment.get(URI_VARIABLE, ""), self.settings["experiment"])
            code = self._run_child(log)
        try:
            return self._conclude(code)
        finally:
            self._follower.close()

    # -- the child -----------------------------------------------------------------------------------------

    def _run_child(self, log: IO[bytes]) -> int:
        self._child = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment(),
        )
        if self.asked:  # while it was being started
            self._ask()
        while (code := self._child.poll()) is None:
            time.sleep(POLL_S)
        return code

    def _command(self) -> list[str]:
        """In the container; but a training run starts its ranks from outside, each in one of its own."""
        words = [] if self.node.kind in TRAINING else shlex.split(self.settings["container"])
        return [*words, "python3" if words else sys.executable, "-m", "adit_scale.jobs", str(self.node.path)]

    def _environment(self) -> dict[str, str]:
        threads = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        own = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.node.kind in TRAINING:
            own |= {BY_SRUN_VARIABLE: "1", CONTAINER_VARIABLE: self.settings["container"]}
        return {**os.environ, **own}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """USR2 comes ahead of the time limit, TERM with anything that ends or moves the job."""
        self.asked = self.asked or (TIME_LIMIT if number == signal.SIGUSR2 else signal.Signals(number).name)
        self._ask()

    def _ask(self) -> None:
        """Have the child save and leave. To ranks, USR2 twice is a request once."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGUSR2 if self.node.kind in TRAINING else signal.SIGTERM)

    def _tracking(self, verb: str, place: Path) -> list[str]:
        """The address is in the environment: it may hold a password."""
        words = [verb, str(place), "--experiment", self.settings["experiment"]]
        return [sys.executable, "-m", "adit_scale.tracking", *words]

    # -- what follows --------------------------------------------------------------------------------------

    def _conclude(self, code: int) -> int:
        folder = self.node.path
        if (folder / DONE).is_file():
            append_end(folder, code, "done", "")
            self._tell_end(folder / LOG)
            return 0
        found = verdict(
            folder,
            code,
            self.asked,
            failure_reason(folder) or _exit_reason(code, folder / LOG),
            final=failed_for_good(folder),
            retries=self.settings["retries"],
            backoff_s=self.settings["backoff_s"],
        )
        if found.again:
            (folder / FAILED).unlink(missing_ok=True)
            found = self._again(found)
        else:
            self.node.fail(found.reason, 0.0, final=True)
            notify(POINT_FAILED, self.node.study, self.node.name, found.reason, log=folder / LOG)
        append_end(folder, code, found.outcome, found.reason)
        print(f"{folder.name}: {found.outcome}: {found.reason}", flush=True)
        return 1

    def _again(self, found: Verdict) -> Verdict:
        """Queue this job again, unless SLURM has done so or somebody cancelled it."""
        state, restarts = job_state()
        if restarts > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            return Verdict("requeued", f"{found.reason} (moved by SLURM)")
        if state and state != "RUNNING":
            return Verdict("stopped", f"{found.reason} (cancelled, or out of time)")
        if self._follower is not None:
            self._follower.close()  # SLURM kills what is left of a job that it queues again
        error = requeue(found.wait_s)
        if error:
            return Verdict(
                "stopped", f"{found.reason}; cannot be queued again ({error}); launch again to go on"
            )
        return found

    def _tell_end(self, log: Path) -> None:
        """After the study's last job: whatever no job mirrored, and a message."""
        if self.node.kind == "report":
            if os.environ.get(URI_VARIABLE):
                with log.open("ab") as stream:
                    command = self._tracking("sync", self.node.path.parent)
                    subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
            study_ended(self.node.study, self.node.path)


def main(submission: Path) -> int:
    """Run the element of the submission's array that this job is."""
    record = json.loads((submission / SUBMISSION).read_text())
    folder = submission.parent.parent / record["nodes"][os.environ.get("SLURM_ARRAY_TASK_ID", "0")]
    job = own_job()
    if (other := _newer_job(folder, job)) is not None:
        print(f"{folder.name}: job {other} has it now; this one ({job}) leaves")
        return 0
    try:
        return Supervisor(NodeFolder.load(folder), record["settings"], job).run()
    except AditError as error:
        print(error, file=sys.stderr)
        return 1


def own_job() -> str:
    """``123_4`` for an element of an array, else ``123``.

    Not SLURM_JOB_ID alone: of an array's last element that is the number of the whole array, and asking SLURM
    to requeue it moves the other elements too.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def job_state() -> tuple[str, int]:
    """This job's state as SLURM's controller has it ("" where it does not say), and its number of restarts,
    which is already one more while SLURM moves it back into the queue."""
    shown = _call("scontrol", "show", "job", "--oneliner", own_job())
    words = dict(word.partition("=")[::2] for word in shown.stdout.split())
    return words.get("JobState", ""), int(words.get("Restarts", "0"))


def requeue(wait_s: float) -> str:
    """Put this job back into the queue, to start after wait_s seconds. Returns what SLURM objected, or ""."""
    job = own_job()
    done = _call("scontrol", "requeue", job)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"scontrol ended with {done.returncode}"])[-1]
    if wait_s >= 1:
        _call("scontrol", "update", f"JobId={job}", f"StartTime=now+{round(wait_s)}")
    return ""


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=CALL_S, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _newer_job(folder: Path, job: str) -> str | None:
    """The job that a later launch gave this node to, should two launches ever have met."""
    if not (folder / LEDGER).is_file():
        return None
    named = str(json.loads((folder / LEDGER).read_text())["job"])
    return named if _number(named) > _number(job) else None


def _number(job: str) -> int:
    return int(job.partition("_")[0])


def _exit_reason(code: int, log: Path) -> str:
    """Of a child that left no FAILED.json; with a full disk, for example, it could not."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = stream.read().decode(errors="replace").rpartition(ATTEMPT)[2].splitlines()
    said = [line.strip() for line in lines[1:] if line.strip()]
    return said[-1] if said else f"ended with status {code} without saying why"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
