"""What squeue and sacct say, as SLURM 22.05 wrote it down; with a real SLURM in tests/slurm/test_queue.py."""

from __future__ import annotations

import getpass
import json
import os
import time
from pathlib import Path

import pytest

from launchers import queue
from launchers.queue import SlurmSilent, accounted, expand, in_queue
from launchers.record import StudyRecord
from launchers.status import state_text, status
from launchers.survey import survey
from tests.launch.submitted import SUBMISSION, Submitted

# squeue --all --array --noheader --Format=..., times as seconds: jobs of ours and of others.
SQUEUE = f"""\
12_0|14|RUNNING|None|1795351008|1795351008|1:00|0:57|0|dev1|ana|adit:{SUBMISSION}|
12_1|12|PENDING|BeginTime|1795351110|1795351110|1-00:00:00|1-00:00:00|1||ana|adit:{SUBMISSION}|
13_0|13|PENDING|Dependency|N/A|N/A|UNLIMITED|UNLIMITED|0||bob|adit:{SUBMISSION}|
99|99|RUNNING|None|1795351008|1795351008|1:00|0:57|0|dev1|eve|adit:0123456789abcdef0123456789abcdef|
98|98|RUNNING|None|1795351008|1795351008|1:00|0:57|0|dev1|eve|a | b || adit:|
97|97|PENDING|Priority|N/A|N/A|1:00|1:00|0||eve||
CLUSTER: other
"""
# sacct --allocations --parsable2 --noheader --duplicates
SACCT = """\
12_0|CANCELLED by 0|0:0|3|1795351007
12_1|REQUEUED|0:0|20|1795351007
12_1|NODE_FAIL|1:0|40|1795351010
13_[0-1]|PENDING|0:0|0|1795351007
20_3|FAILED|3:0|1|1795351007
"""


@pytest.fixture
def study(tmp_path: Path) -> Submitted:
    """Nodes a, b of an array, and one of their evaluations, were submitted to SLURM."""
    study = Submitted(tmp_path / "demo", launcher="slurm")
    folder = study.folder / "slurm" / SUBMISSION
    folder.mkdir(parents=True)
    (folder / "nodes.json").write_text(json.dumps({"nodes": {"0": "diffusion-a", "1": "diffusion-b"}}))
    study.finish("shards", "autoencoder")
    return study


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH; see ``program``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, says: str, status: int = 0, seconds: float = 0.0) -> None:
    """What it says; its arguments and the surroundings that matter go to NAME.called."""
    (folder / f"{name}.says").write_text(says)
    stream = "" if status == 0 else ">&2"
    lines = [
        "#!/bin/sh",
        f'echo "$@ $SLURM_TIME_FORMAT$SQUEUE_STATES$SACCT_FORMAT" >>{folder}/{name}.called',
        f"/bin/sleep {seconds}",
        f"/bin/cat {folder}/{name}.says {stream}",
        f"exit {status}",
    ]
    (folder / name).write_text("\n".join(lines) + "\n")
    (folder / name).chmod(0o755)


def test_jobs_are_known_by_their_comment(study, programs, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")  # a person's habit
    program(programs, "squeue", SQUEUE)
    found = in_queue(study.folder)
    assert list(found) == ["12_0", "12_1", "13_0"]
    running, waiting, other = found.values()
    assert (running.node, running.state, running.reason, running.raw) == ("diffusion-a", "RUNNING", "", "14")
    assert (running.start_s, running.limit_s, running.left_s) == (1795351008.0, 60.0, 57.0)
    assert (running.hosts, running.user, running.comment) == ("dev1", "ana", f"adit:{SUBMISSION}")
    assert (waiting.node, waiting.restarts, waiting.eligible_s) == ("diffusion-b", 1, 1795351110.0)
    assert waiting.limit_s == 86400.0
    assert (other.start_s, other.limit_s, other.user) == (None, None, "bob")
    (called,) = (programs / "squeue.called").read_text().splitlines()
    assert called.startswith("--all --array --noheader --Format=")
    assert called.endswith(" %s")  # times in seconds, and no habit


def test_a_study_that_was_never_submitted_asks_nobody(tmp_path, programs):
    assert in_queue(Submitted(tmp_path / "demo").folder) == {}
    assert accounted([]) == {}


def test_accounts_of_several_lives_and_of_arrays_that_never_began(programs):
    program(programs, "sacct", SACCT)
    found = accounted(["12_0", "12_1", "13_1", "14_0"])
    assert list(found) == ["12_0", "12_1", "13_1"]
    assert (found["12_0"].state, found["12_0"].exit_code) == ("CANCELLED", "0:0")
    assert (found["12_1"].state, found["12_1"].elapsed_s, found["12_1"].restarts) == ("NODE_FAIL", 60.0, 1)
    assert found["13_1"].state == "PENDING"
    (called,) = (programs / "sacct.called").read_text().splitlines()
    assert "--jobs=12,13,14" in called


def test_ranges_of_arrays():
    assert expand("7_[1,3-4,10-14:2%3]") == ["7_1", "7_3", "7_4", "7_10", "7_12", "7_14"]
    assert expand("7_[0-1,...]") == ["7_0", "7_1"]


@pytest.mark.parametrize(
    ("says", "status", "seconds", "line"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller", 1, 0, "squeue failed: slurm_load_jobs"),
        ("", 3, 0, "squeue failed: status 3"),
        ("", 0, 2, "squeue did not answer in 0 s; try again later"),
    ],
)
def test_a_silent_squeue_is_one_line_and_no_hang(study, programs, monkeypatch, says, status, seconds, line):
    monkeypatch.setattr(queue, "TIMEOUT_S", 0.3)
    program(programs, "squeue", says, status, seconds)
    begin = time.monotonic()
    with pytest.raises(SlurmSilent, match=line):
        in_queue(study.folder)
    assert time.monotonic() - begin < 1.5


def test_without_slurm_on_the_machine(study, programs):
    with pytest.raises(SlurmSilent, match="no squeue on this machine; ask on the cluster"):
        in_queue(study.folder)
    study.ledger("diffusion a", "12_0", "ana")
    found = survey(StudyRecord.load(study.folder))
    assert list(found.notes) == [
        f"no {name} on this machine; ask on the cluster" for name in ("squeue", "sacct")
    ]
    states = {row.record.name: row.state for row in found.rows}
    assert (states["autoencoder"], states["diffusion a"], states["diffusion b"]) == (
        "done",
        "unknown",
        "waiting",
    )


def test_states_of_jobs_in_the_queue(study, programs):
    program(programs, "squeue", SQUEUE)
    for name, job in (("diffusion a", "12_0"), ("diffusion b", "12_1")):
        study.ledger(name, job, "ana")
    rows = study.rows()
    assert (rows["diffusion a"].state, rows["diffusion a"].hosts) == ("running", "dev1")
    assert rows["diffusion b"].state == "requeued"
    assert rows["diffusion b"].why.startswith("until ")
    assert rows["diffusion b"].restarts == 1
    study.attempt("diffusion b", 1.0, 2.0, "retrying", "bus error; try 3 of 4", job="12_1")
    row = study.row("diffusion b")
    assert (row.state, row.detail) == ("retrying", "bus error; try 3 of 4")
    assert row.why.startswith("3/4, until ")
    # A failure that is about to be tried again is none; one that SLURM is still clearing up after is.
    study.node("diffusion a").fail("boom", 1.0)
    assert study.row("diffusion a").state == "running"
    program(programs, "squeue", SQUEUE.replace("RUNNING", "COMPLETING"))
    assert study.row("diffusion a").state == "failed"


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("Priority", "queued (Priority)"),
        ("Dependency", "queued (after diffusion a)"),
        ("DependencyNeverSatisfied", "queued (after diffusion a)"),
        ("BeginTime", "queued (until 2026-11-"),
    ],
)
def test_why_a_job_waits(study, programs, reason, state):
    nodes = {"0": "evaluation-a"}
    (study.folder / "slurm" / SUBMISSION / "nodes.json").write_text(json.dumps({"nodes": nodes}))
    queue._NODES.clear()
    line = f"12_0|14|PENDING|{reason}|N/A|1795000000|1:00|1:00|0||ana|adit:{SUBMISSION}|\n"
    program(programs, "squeue", line)
    assert state_text(study.row("evaluation a")).startswith(state)
    study.node("diffusion a").fail("boom", 1.0)
    if reason == "DependencyNeverSatisfied":
        assert state_text(study.row("evaluation a")) == "blocked by diffusion a"


def test_jobs_that_have_left_the_queue(study, programs):
    program(programs, "squeue", "")
    program(programs, "sacct", SACCT)
    me = getpass.getuser()
    study.ledger("diffusion a", "12_0", me)
    study.ledger("evaluation a", "13_0", me)
    study.ledger("diffusion b", "12_1", me)
    study.ledger("evaluation b", "50_0", me)
    rows = study.rows()
    assert rows["diffusion a"].state == "cancelled"
    assert (rows["evaluation a"].state, rows["evaluation a"].why) == ("blocked", "diffusion a")
    assert (rows["diffusion b"].state, rows["diffusion b"].why) == ("failed", "NODE_FAIL")
    assert rows["diffusion b"].detail == "job 12_1 ended as NODE_FAIL (1:0); launch again to run it"
    study.finish("diffusion b")
    row = study.row("evaluation b")
    assert (row.state, row.detail) == ("lost", "job 50_0 is in no queue; launch again to run it")
    study.ledger("evaluation b", "50_0", "somebody else")  # whose jobs a cluster may hide
    assert study.row("evaluation b").state == "unknown"
    assert len((programs / "squeue.called").read_text().splitlines()) == 3  # one a survey
    assert len((programs / "sacct.called").read_text().splitlines()) == 3


def test_a_later_launch_here_forgets_the_ledger(study, programs):
    program(programs, "squeue", "")
    study.ledger("diffusion a", "12_0", getpass.getuser())
    study.attempt("diffusion a", 1.0, 2.0, "stopped", "SIGINT")  # under the local launcher
    assert study.row("diffusion a").state == "stopped"
    assert not (programs / "sacct.called").exists()


def test_the_page_says_what_could_not_be_asked(study, programs, capsys):
    program(programs, "squeue", "squeue: error: no controller", 1)
    study.ledger("diffusion a", "12_0", "ana")
    assert status(study.folder) == 0
    out = capsys.readouterr().out
    assert "note: squeue failed: no controller\n" in out
    assert "1 unknown, 1 waiting" in out or "1 waiting, 1 unknown" in out


def test_the_cluster_asked_is_the_one_of_the_environment(programs):
    """Other variables of SLURM (which cluster, which configuration) are left alone."""
    program(programs, "sacct", "")
    (programs / "sacct").write_text(f"#!/bin/sh\necho $SLURM_CONF >{programs}/conf\n")
    os.environ["SLURM_CONF"], before = "/etc/x.conf", os.environ.get("SLURM_CONF")
    try:
        accounted(["1"])
    finally:
        os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)
    assert (programs / "conf").read_text() == "/etc/x.conf\n"
