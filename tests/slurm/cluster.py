"""A real SLURM in the hands of tests: submitting studies, looking at them, and doing them harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adit_scale.jobs.attempts import Attempt, attempts
from adit_scale.jobs.node import DONE, LOG, file_digest
from adit_scale.training.config import WEIGHTS_FILE

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = REPO / "launchers" / "dev_cluster"
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch")
POLL_S = 0.2
CALL_S = 60.0


def dev_folder() -> Path:
    """Where up.sh puts the dev cluster."""
    return Path(os.environ.get("DEV_CLUSTER", f"/tmp/adit-dev-cluster-{os.getuid()}"))


def missing_programs() -> list[str]:
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=places) is None]


def is_up(configuration: str | Path) -> bool:
    """Whether a controller answers behind this slurm.conf."""
    if shutil.which("scontrol") is None or not Path(configuration).is_file():
        return False
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    try:
        ping = subprocess.run(
            ["scontrol", "ping"], env=environment, capture_output=True, timeout=15, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return b"is UP" in ping.stdout


@dataclass
class Study:
    """One study's folder as submitted."""

    folder: Path

    def node(self, kind: str, label: str = "") -> Path:
        """The folder of the newest node of this kind. Fails where there is none."""
        found = sorted(self.folder.glob(f"{kind}-{label}*/node.json"), key=lambda path: path.stat().st_mtime)
        there = sorted(path.name for path in self.folder.glob("*"))
        assert found, f"no node {kind} {label} in {self.folder}: {there}"
        return found[-1].parent

    def job(self, kind: str, label: str = "") -> str:
        """The id of the node's job, such as 123_0."""
        return str(json.loads((self.node(kind, label) / "slurm_job.json").read_text())["job"])

    def is_done(self, kind: str, label: str = "") -> bool:
        return (self.node(kind, label) / DONE).is_file()

    def weights(self, label: str) -> str:
        """Digest of the point's final weights."""
        return file_digest(self.node("diffusion", label) / "weights" / WEIGHTS_FILE)

    def checkpoints(self, label: str) -> list[int]:
        """Steps of the point's committed checkpoints."""
        found = self.node("diffusion", label).glob("checkpoints/step-*/COMMITTED")
        return sorted(int(path.parent.name.rpartition("-")[2]) for path in found)

    def losses(self, label: str) -> list[tuple[int, float]]:
        """Every record of the training loss in the point's journal, as (step, loss)."""
        lines = (self.node("diffusion", label) / "journal.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [
            (r["step"], r["values"]["train/loss"]) for r in records if "train/loss" in r.get("values", {})
        ]

    def attempts(self, label: str) -> list[Attempt]:
        """Of the point's training run."""
        return attempts(self.node("diffusion", label))

    def outcomes(self, label: str) -> list[str]:
        return [attempt.outcome for attempt in self.attempts(label)]

    def has_ended(self, label: str) -> bool:
        """Whether the point's training run is done, and its supervisor has noted that."""
        return self.outcomes(label)[-1:] == ["done"]

    def describe(self) -> str:
        """What a failure message shows: markers, attempts and the ends of all logs."""
        lines = []
        for node in sorted(path.parent for path in self.folder.glob("*/node.json")):
            lines.append(f"== {node.name}: {[p.name for p in node.glob('*.json')]}")
            lines += [f"   {attempt}" for attempt in attempts(node)]
            lines += _tail(node / LOG, 6) if not (node / DONE).is_file() else []
        for output in sorted(self.folder.glob("slurm/*/*.out")):
            lines += [f"== {output.name}", *_tail(output, 4)]
        return "\n".join(lines)


@dataclass
class Cluster:
    """configuration: its slurm.conf. folder: of a dev cluster, whose daemons may be harmed; else None."""

    configuration: Path
    folder: Path | None
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        if self.folder is not None:
            self.environment["DEV_CLUSTER"] = str(self.folder)

    def call(self, *command: str) -> str:
        """Standard output of one of SLURM's programs. Fails with what it said."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=CALL_S, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start_launch(self, words: Sequence[str], cwd: Path = REPO) -> subprocess.Popen[str]:
        """launch.py with these words, of the checkout in cwd, in the background."""
        return subprocess.Popen(
            [sys.executable, "launch.py", *words],
            cwd=cwd,
            env=self.environment | {"PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def launch(self, words: Sequence[str], cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
        process = self.start_launch(words, cwd)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def wait_for(
        self, met: Callable[[], object], seconds: float, what: str, study: Study | None = None
    ) -> None:
        """Wait until ``met`` returns something true; fails with all there is to know."""
        deadline = time.monotonic() + seconds
        while not met():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.describe()}\n"
                                     f"{study.describe() if study else ''}")  # fmt: skip
            time.sleep(POLL_S)

    def wait_for_end(self, study: Study, seconds: float) -> None:
        """Until none of the study's jobs is in the queue."""
        self.wait_for(lambda: not self.queue(study), seconds, f"{study.folder} ends", study)

    def queue(self, study: Study) -> list[str]:
        """The study's jobs that wait or run, one line each: id, state, reason, nodes, comment."""
        lines = self.call(
            "squeue", "-r", "--noheader", "--Format=JobArrayID:20,State:15,Reason:40,Comment:60"
        )
        ours = {f"adit:{path.name}" for path in study.folder.glob("slurm/*")}
        return [line for line in lines.splitlines() if line.split()[-1] in ours]

    def sacct(self, job: str) -> list[str]:
        """The states of all lives of a job, oldest first, as the accounting has them."""
        table = self.call("sacct", "-X", "-n", "-P", "--duplicates", "-j", job, "--format=State")
        return [line.split()[0] for line in table.splitlines()]

    def preempt(self) -> str:
        """Take the nodes of dev for a job of partition urgent that runs two seconds. Returns its id."""
        size = ["--partition=urgent", "--nodes=2", "--exclusive", "--mem=0", "--time=1"]
        return self.call("sbatch", "--parsable", *size, "--output=/dev/null", "--wrap", "sleep 2")

    def rank(self, node: Path, number: int) -> int:
        """Pid of a rank of the training run that goes on in this folder."""
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
                variables = (place / "environ").read_bytes().split(b"\0")
            except OSError:  # it ended meanwhile
                continue
            is_rank = b"adit_scale.jobs.worker" in words and words[0] != b"srun"
            if is_rank and str(node).encode() in words and f"SLURM_PROCID={number}".encode() in variables:
                return int(place.name)
        raise AssertionError(f"no process of rank {number} in {node}")

    def end_all(self, runs: Path) -> None:
        """Cancel whatever studies below this folder left in the queue."""
        for study in runs.glob("*/*/study.json"):
            for line in self.queue(Study(study.parent)):
                subprocess.run(["scancel", line.split()[0]], env=self.environment, check=False)

    # -- harm to the daemons of a dev cluster ---------------------------------------------------------------

    def take_node(self, name: str) -> None:
        """As a power cut would: the node's daemon and all that runs there are gone."""
        self._script("down.sh", "--node", name)

    def up(self) -> None:
        """Start whatever is down."""
        self._script("up.sh")

    def down(self) -> None:
        self._script("down.sh")

    def node_state(self, name: str) -> str:
        return self.call("sinfo", "--noheader", f"--nodes={name}", "--partition=dev", "--format=%T")

    def _script(self, name: str, *arguments: str) -> None:
        command = [str(SCRIPTS / name), *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def describe(self) -> str:
        lines = [self.call("squeue"), self.call("sinfo", "-N")]
        for log in sorted((self.folder or Path("/nonexistent")).glob("log/slurm*.log")):
            lines += [f"== {log.name}", *_tail(log, 8)]
        return "\n".join(lines)


def _tail(path: Path, n: int) -> list[str]:
    return (
        [f"   {line}" for line in path.read_text(errors="replace").splitlines()[-n:]]
        if path.is_file()
        else []
    )
