"""The dev cluster itself: what it offers, what it refuses, and that up.sh starts what is down and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm
DAEMONS = ("munge/munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd-dev1", "slurmd-dev2")


def pids(cluster: Cluster) -> dict[str, int]:
    assert cluster.folder is not None
    return {name: int((cluster.folder / f"{name}.pid").read_text()) for name in DAEMONS}


def refusal(cluster: Cluster, *options: str) -> str:
    """What sbatch objects to."""
    done = subprocess.run(
        ["sbatch", "--test-only", *options, "--wrap", "true"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip() if done.returncode else ""


def test_what_it_offers_and_refuses(dev_cluster):
    partitions = dev_cluster.call("sinfo", "--noheader", "--format=%R %l").splitlines()
    assert sorted(partitions) == ["dev 4:00:00", "far 1:00:00", "short 5:00", "urgent 1:00:00"]
    assert "NodeHostName=far-away" in dev_cluster.call("scontrol", "show", "node", "far1")
    assert refusal(dev_cluster, "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=2") == ""
    assert "not available" in refusal(dev_cluster, "--gpus-per-node=3")
    assert "Invalid account" in refusal(dev_cluster, "--account=guest")
    # As SLURM is by default: it takes such a job and lets it wait for ever.
    assert refusal(dev_cluster, "--partition=short", "--time=6") == ""


def test_up_starts_what_is_down_and_leaves_the_rest(dev_cluster):
    before = pids(dev_cluster)
    dev_cluster.up()
    assert pids(dev_cluster) == before
    killed = before["slurmd-dev2"]
    os.kill(killed, signal.SIGKILL)
    dev_cluster.wait_for(lambda: not Path(f"/proc/{killed}").exists(), 30, "slurmd of dev2 is gone")
    dev_cluster.up()
    after = pids(dev_cluster)
    assert {name for name in DAEMONS if after[name] != before[name]} == {"slurmd-dev2"}
    assert Path(f"/proc/{after['slurmd-dev2']}/comm").read_text() == "slurmd\n"


def test_a_daemon_holds_none_of_its_starters_pipes(dev_cluster):
    for name, pid in pids(dev_cluster).items():
        held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert f"{dev_cluster.folder}.lock" not in held, name
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null", name
        assert not os.readlink(f"/proc/{pid}/fd/1").startswith(("pipe:", "/dev/pts")), name


def test_a_requeued_job_is_back_in_seconds(dev_cluster, tmp_path):
    output = tmp_path / "starts"
    script = "date +%s.%N; sleep 60"
    options = ["--requeue", "--open-mode=append", f"--output={output}", "--ntasks=1", "--mem=50", "--time=5"]
    job = dev_cluster.call("sbatch", "--parsable", *options, "--wrap", script)

    def starts() -> list[float]:
        return [float(line) for line in output.read_text().split("\n") if line[:1].isdigit()]

    dev_cluster.wait_for(lambda: output.is_file() and starts(), 60, "the job starts")
    requeued = time.time()
    dev_cluster.call("scontrol", "requeue", job)
    dev_cluster.wait_for(lambda: len(starts()) == 2, 60, "the job starts again")
    dev_cluster.call("scancel", job)
    assert 5 < starts()[1] - requeued < 30  # SLURM's own wait is cred_expire + 1 = 6 s
