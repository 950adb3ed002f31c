"""What status, logs and the queue say of real jobs, and that the accounting agrees."""

from __future__ import annotations

import getpass
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launchers.logs import logs
from launchers.queue import accounted, in_queue
from launchers.record import StudyRecord
from launchers.status import state_text
from launchers.survey import survey
from tests.launch.submitted import SUBMISSION, Submitted

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]

# What sacct says of a job that status calls so.
AGREES = {
    "done": {"COMPLETED"},
    "running": {"RUNNING", "COMPLETING"},
    "queued": {"PENDING"},
    "requeued": {"REQUEUED", "PENDING"},
    "cancelled": {"CANCELLED"},
    "blocked": {"CANCELLED", "PENDING"},
    "failed": {"FAILED"},
}
# By element of the array: d fails, e finishes, the others wait for their signal.
SCRIPT = """\
#!/bin/bash
echo hello from element $SLURM_ARRAY_TASK_ID
case $SLURM_ARRAY_TASK_ID in 3) exit 3;; 4) exit 0;; esac
sleep 120 & wait
"""


class Jobs(Submitted):
    """Points a to e whose runs and evaluations are real jobs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, launcher="slurm", labels="abcde")
        self.finish("shards", "autoencoder")
        self.jobs: list[str] = []

    def sbatch(self, kind: str, submission: str, *options: str) -> str:
        names = [name for name in self.nodes if name.startswith(kind)]
        folder = self.folder / "slurm" / submission
        folder.mkdir(parents=True)
        nodes = {str(i): self.nodes[name].folder.name for i, name in enumerate(names)}
        (folder / "nodes.json").write_text(json.dumps({"nodes": nodes}))
        (folder / "job.sh").write_text(SCRIPT)
        job = slurm(
            *("sbatch", "--parsable", "--requeue", "--time=3", "--ntasks=1", "--mem=100M"),
            *(f"--array=0-{len(names) - 1}", f"--comment=adit:{submission}", f"--output={folder}/%A_%a.out"),
            *(*options, str(folder / "job.sh")),
        )
        for i, name in enumerate(names):
            self.ledger(name, f"{job}_{i}", getpass.getuser(), submission)
        self.jobs.append(job)
        return job


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_for(what: Callable[[], object], seconds: float = 30.0) -> None:
    end_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end_s, slurm("squeue")
        time.sleep(0.3)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path / "demo")
    yield jobs
    for job in jobs.jobs:
        subprocess.run(["scancel", job], check=False)


def test_states_of_real_jobs_agree_with_the_accounting(study, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "SUSPENDED")  # a person's habits hide nothing
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    runs = study.sbatch("diffusion", SUBMISSION)
    scores = study.sbatch(
        "evaluation", "f" * 32, f"--dependency=aftercorr:{runs}", "--kill-on-invalid-dep=yes"
    )
    later = study.sbatch("report", "e" * 32, "--begin=now+600")
    study.finish("diffusion e", "evaluation e")
    wait_for(lambda: [study.states()[f"diffusion {x}"] for x in "abc"] == ["running"] * 3)
    slurm("scancel", f"{runs}_1")
    slurm("scontrol", "requeue", f"{runs}_2")
    wait_for(lambda: study.row("diffusion c").state == "requeued")
    wait_for(lambda: study.row("evaluation d").state == "blocked")
    settled = {"diffusion b": "cancelled", "diffusion c": "requeued", "diffusion d": "failed"}
    wait_for(lambda: settled.items() <= study.states().items())

    found = survey(StudyRecord.load(study.folder))
    assert list(found.notes) == []
    rows = {row.record.name: row for row in found.rows}
    assert (rows["diffusion a"].job, rows["diffusion a"].user) == (f"{runs}_0", getpass.getuser())
    assert rows["diffusion a"].hosts
    assert rows["diffusion c"].why.startswith("until ")
    assert rows["diffusion c"].restarts == 1
    assert rows["diffusion d"].detail == f"job {runs}_3 ended as FAILED (3:0); launch again to run it"
    assert state_text(rows["evaluation a"]) == "queued (after diffusion a)"
    assert state_text(rows["evaluation d"]) == "blocked by diffusion d"
    assert state_text(rows["report"]).startswith("queued (until ")
    points = found.points
    assert {state: points[state] for state in ("requeued", "cancelled", "failed")} == dict.fromkeys(
        ("requeued", "cancelled", "failed"), 1
    )
    assert sum(points.values()) == 5
    asked = {row.job: row for row in found.rows if row.job}
    wait_for(lambda: set(accounted(asked)) == set(asked))  # the accounting is a little behind
    accounts = accounted(asked)
    for job, row in asked.items():
        assert accounts[job].state in AGREES[row.state], (job, row.state, accounts[job])
    live = in_queue(study.folder)
    assert {f"{runs}_0", f"{runs}_2", f"{scores}_0", f"{later}_0"} <= set(live)
    assert live[f"{runs}_0"].node == "diffusion-a"
    assert live[f"{runs}_0"].limit_s == 180.0
    assert 100 < live[f"{runs}_0"].left_s <= 180
    assert live[f"{runs}_0"].start_s == pytest.approx(time.time(), abs=60)
    assert f"{runs}_1" not in live


def test_a_job_that_printed_nothing_yet_is_explained_by_its_batch_script(study, capfd):
    runs = study.sbatch("diffusion", SUBMISSION)
    out = study.folder / "slurm" / SUBMISSION / f"{runs}_0.out"
    wait_for(lambda: out.is_file() and out.stat().st_size)
    logs(study.folder, "a")
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"diffusion a: running, job {runs}_0; no log yet"
    assert said[-1] == "hello from element 0"


def test_a_job_that_nobody_knows_is_lost(study):
    study.ledger("diffusion a", "99999_0", getpass.getuser())
    (study.folder / "slurm" / SUBMISSION).mkdir(parents=True)
    row = study.row("diffusion a")
    assert (row.state, row.detail) == ("lost", "job 99999_0 is in no queue; launch again to run it")
