"""What SLURM knows of a study's jobs: one call of squeue for the living, one of sacct for the others.

The only place that asks either. A study's jobs are known by their comment, ``adit:SUBMISSION``: the name of
the folder STUDY/slurm/SUBMISSION, whose nodes.json says which element of the array runs which node. So every
job is found that anybody submitted for the study, also where the submitter was killed before it noted an id.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adit_scale.errors import AditError

COMMENT = "adit:"  # sbatch --comment=adit:SUBMISSION
SUBMISSIONS, NODES = "slurm", "nodes.json"  # STUDY/slurm/SUBMISSION/nodes.json
TIMEOUT_S = 10.0
SEPARATOR = "|"
QUEUE_FIELDS = (
    "JobArrayID", "JobID", "State", "Reason", "StartTime", "EligibleTime", "TimeLimit", "TimeLeft",
    "RestartCnt", "NodeList", "UserName", "Comment",
)  # fmt: skip
ACCOUNT_FIELDS = ("JobID", "State", "ExitCode", "ElapsedRaw", "Submit")


class SlurmSilent(AditError):
    """squeue or sacct is missing, failed, or did not answer in time; or what it said cannot be understood."""


@dataclass(frozen=True)
class Queued:
    """A job that waits or runs.

    job: "123_4" of an array, else "123". raw: SLURM's own number of the element. node: name of the folder it
    runs, "" where nodes.json does not say. state: PENDING, RUNNING, COMPLETING, ... start_s: when it began or
    is expected to; eligible_s: not before then; both since the epoch, None where SLURM does not know. left_s:
    until the time limit, None without one. restarts: by requeue.
    """

    job: str
    raw: str
    submission: str
    node: str
    state: str
    reason: str
    start_s: float | None
    eligible_s: float | None
    limit_s: float | None
    left_s: float | None
    restarts: int
    hosts: str
    user: str

    @property
    def comment(self) -> str:
        return f"{COMMENT}{self.submission}"


@dataclass(frozen=True)
class Accounted:
    """How a job ended or stands, by the accounting: of several lives of a requeued one, the last.

    state: one word, such as COMPLETED or CANCELLED. exit_code: "3:0" is status 3, "0:9" signal 9. elapsed_s:
    of all lives together. restarts: lives before the last.
    """

    job: str
    state: str
    exit_code: str
    elapsed_s: float
    restarts: int


def in_queue(study: Path) -> dict[str, Queued]:
    """The jobs of the study in ``study`` that wait or run, whoever submitted them, by job id.

    Raises SlurmSilent: then nobody may conclude that a job is not in the queue.
    """
    submissions = _submissions(study)
    if not submissions:
        return {}
    fields = ",".join(f"{name}:{SEPARATOR}" for name in QUEUE_FIELDS)
    found: dict[str, Queued] = {}
    for line in _ask(["squeue", "--all", "--array", "--noheader", f"--Format={fields}"]):
        # The comments of others may hold anything, so ours stands last; every field ends with a separator.
        values = line.removesuffix(SEPARATOR).split(SEPARATOR, len(QUEUE_FIELDS) - 1)
        if len(values) == len(QUEUE_FIELDS) and values[-1].removeprefix(COMMENT) in submissions:
            job = _queued(dict(zip(QUEUE_FIELDS, values, strict=True)), submissions)
            found[job.job] = job
    return found


def accounted(jobs: Iterable[str]) -> dict[str, Accounted]:
    """What the accounting says of these jobs ("123_4"), by job id; those it does not know are left out.

    A requeued job that waits again is REQUEUED there. Raises SlurmSilent, also where the cluster keeps none.
    """
    asked = set(jobs)
    if not asked:
        return {}
    arrays = sorted({job.partition("_")[0] for job in asked})
    options = ["--allocations", "--parsable2", "--noheader", "--duplicates"]
    lines = _ask(["sacct", *options, f"--jobs={','.join(arrays)}", f"--format={','.join(ACCOUNT_FIELDS)}"])
    lives: dict[str, list[list[str]]] = {}
    for values in (line.split(SEPARATOR) for line in lines):
        if len(values) == len(ACCOUNT_FIELDS):
            for job in expand(values[0]):
                lives.setdefault(job, []).append(values)
    return {job: _accounted(job, found) for job, found in lives.items() if job in asked}


def expand(job: str) -> list[str]:
    """The elements of "12_[0-2,7%4]", as SLURM writes those that never started.

    >>> expand("12_[0-2,7%4]")
    ['12_0', '12_1', '12_2', '12_7']
    >>> expand("12_3"), expand("12")
    (['12_3'], ['12'])
    """
    array, bracket, rest = job.partition("_[")
    if not bracket:
        return [job]
    elements: list[str] = []
    for part in re.sub(r"%\d+", "", rest.rstrip("]")).split(","):
        first, _, last = part.partition("-")
        last, _, step = last.partition(":")
        if first.isdigit():  # a long list is cut with dots
            elements += [f"{array}_{i}" for i in range(int(first), int(last or first) + 1, int(step or 1))]
    return elements


def _submissions(study: Path) -> dict[str, Path]:
    folder = study / SUBMISSIONS
    return {entry.name: entry for entry in folder.iterdir()} if folder.is_dir() else {}


def _queued(values: Mapping[str, str], submissions: Mapping[str, Path]) -> Queued:
    submission = values["Comment"].removeprefix(COMMENT)
    job = values["JobArrayID"]
    return Queued(
        job=job,
        raw=values["JobID"],
        submission=submission,
        node=_node(submissions[submission], job),
        state=values["State"],
        reason="" if values["Reason"] == "None" else values["Reason"],
        start_s=_seconds(values["StartTime"]),
        eligible_s=_seconds(values["EligibleTime"]),
        limit_s=_duration_s(values["TimeLimit"]),
        left_s=_duration_s(values["TimeLeft"]),
        restarts=int(values["RestartCnt"] or 0),
        hosts=values["NodeList"],
        user=values["UserName"],
    )


_NODES: dict[Path, dict[str, str]] = {}  # nodes.json is written once, before its jobs are submitted


def _node(submission: Path, job: str) -> str:
    path = submission / NODES
    if submission not in _NODES and path.is_file():
        try:
            _NODES[submission] = dict(json.loads(path.read_text())["nodes"])
        except (KeyError, TypeError, ValueError) as error:
            array, _, _ = job.partition("_")
            raise SlurmSilent(
                f"{path}: damaged ({type(error).__name__}), so what job {array} runs is not known; "
                f"scancel {array}, then launch again"
            ) from error
    return _NODES.get(submission, {}).get(job.partition("_")[2], "")


def _accounted(job: str, lives: list[list[str]]) -> Accounted:
    lives = sorted(lives, key=lambda values: _seconds(values[4]) or 0.0)
    _, state, exit_code, _, _ = lives[-1]
    elapsed_s = sum(float(values[3] or 0) for values in lives)
    return Accounted(job, state.partition(" ")[0], exit_code, elapsed_s, len(lives) - 1)


def _ask(command: list[str]) -> list[str]:
    """Lines of its output. Raises SlurmSilent with the program's own last line."""
    # A person's habits (a format, only their own jobs) must not hide a job from us; times as seconds.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    try:
        done = subprocess.run(
            command,
            env={**environment, "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise SlurmSilent(f"no {command[0]} on this machine; ask on the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmSilent(f"{command[0]} did not answer in {TIMEOUT_S:.0f} s; try again later") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise SlurmSilent(f"{command[0]} failed: {said.removeprefix(f'{command[0]}: error: ')}")
    return done.stdout.splitlines()


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _duration_s(text: str) -> float | None:
    """Of SLURM's [days-][[hours:]minutes:]seconds; None for UNLIMITED, INVALID and the like.

    >>> _duration_s("1-02:00:05"), _duration_s("9:30"), _duration_s("UNLIMITED")
    (93605.0, 570.0, None)
    """
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, *([days] if dash else [])]):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return float(seconds + 86400 * int(days or 0))
