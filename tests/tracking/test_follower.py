"""Followers beside jobs, against a real server that is killed under them, over SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from adit_scale.tracking.config import URI_VARIABLE
from adit_scale.tracking.follower import Follower
from adit_scale.tracking.increments import Mark
from adit_scale.tracking.journal import Journal
from adit_scale.tracking.locks import RUNS
from adit_scale.tracking.mlflow_sink import MARK_TAG, PARENT_TAG
from adit_scale.tracking.sync import sync
from adit_scale.tracking.tailer import Tailer
from tests.tracking.servers import POSTGRES, Postgres, Server, wait_until
from tests.tracking.studies import GIT_SHA, attempt, log_steps, lost_and_doubled, make_study, runs_of

STEPS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server) -> MlflowClient:
    return MlflowClient(server.uri)


@pytest.fixture
def experiment(request) -> str:
    return request.node.name


def follower(folder: Path, uri: str, experiment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "adit_scale.tracking", "follow", str(folder), "--interval-s", "0.3"]
    return subprocess.Popen(
        [*command, "--uri", uri, "--experiment", experiment], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )


def leave(process: subprocess.Popen) -> str:
    """End its input; returns what it said."""
    _, said = process.communicate(timeout=60)
    return said.decode()


def run_job(node: Path, fault_over: threading.Event) -> None:
    """A job that is preempted half way and goes on behind the fault: its journal is cut and written again."""
    attempt(node, event="start", job="12_3", host="dev1", nodes="dev[1-2]", tasks=4)
    with Journal(node) as journal:
        journal.log_params({"seed": 0})
        log_steps(journal, range(STEPS // 3))
        journal.sync()
        saved = journal.offset
        for step in range(STEPS // 3, STEPS // 2):
            log_steps(journal, range(step, step + 1))
            time.sleep(0.02)
        journal.truncate(saved)
        attempt(node, event="end", code=75, outcome="requeued", reason="SIGTERM")
        attempt(node, event="start", job="12_3", host="dev2", nodes="dev2", tasks=4)
        log_steps(journal, range(STEPS // 3, STEPS // 2))
        assert fault_over.wait(120)
        log_steps(journal, range(STEPS // 2, STEPS))
    (node / "pictures").mkdir()
    (node / "pictures" / "gallery.html").write_text("<html></html>")
    (node / "DONE.json").write_text("{}")
    attempt(node, event="end", code=0, outcome="done", reason="")


def check_study(client: MlflowClient, experiment: str, study: Path, nodes: list[Path]) -> None:
    runs = runs_of(client, experiment)
    assert sorted(runs) == sorted([study.name, *(node.name.rpartition("-")[0] for node in nodes)])
    ((parent,), *_) = runs[study.name], None
    for node in nodes:
        (run,) = runs[node.name.rpartition("-")[0]]
        assert lost_and_doubled(client, run, node) == (0, 0)
        tags = run.data.tags
        assert tags[PARENT_TAG] == parent.info.run_id
        assert (tags["adit.slurm_job"], tags["adit.host"], tags["adit.restarts"]) == ("12_3", "dev2", "1")
        assert (tags["adit.git_sha"], tags["adit.study"]) == (GIT_SHA, study.name)
        assert run.info.status == "FINISHED"
        pictures = client.list_artifacts(run.info.run_id, "pictures")
        assert [file.path for file in pictures] == ["pictures/gallery.html"]
    assert parent.data.tags["adit.hypothesis"] == "larger is better"
    assert parent.info.start_time == 1795348800000


def drill(client: MlflowClient, uri: str, experiment: str, study: Path, fault) -> None:
    """Four jobs begin at once, each with a follower; ``fault`` happens while they log."""
    nodes = make_study(study, ["a", "b", "c", "d"])
    followers = [follower(node, uri, experiment) for node in nodes]
    over = threading.Event()
    jobs = [threading.Thread(target=run_job, args=(node, over)) for node in nodes]
    for job in jobs:
        job.start()
    found = client.get_experiment_by_name
    try:
        wait_until(
            lambda: found(experiment) is not None and len(runs_of(client, experiment)) == 5, 60, "runs"
        )
        assert runs_of(client, experiment)[study.name][0].info.status == "RUNNING"
        fault()
    finally:
        over.set()
        for job in jobs:
            job.join()
    said = [leave(process) for process in followers]
    check_study(client, experiment, study, nodes)
    for text in said:
        assert text.count("trying again") <= 3
        assert "Traceback" not in text
    report = study / "report-1a2b3c4d"
    (report / "report").mkdir()
    (report / "report" / "report.html").write_text("<html></html>")
    (report / "DONE.json").write_text(json.dumps({"metrics": {"law/alpha": 0.3}}))
    leave(follower(report, uri, experiment))
    (parent,) = runs_of(client, experiment)[study.name]
    assert (parent.info.status, parent.data.metrics) == ("FINISHED", {"law/alpha": 0.3})
    assert [f.path for f in client.list_artifacts(parent.info.run_id, "report")] == ["report/report.html"]
    before = parent.info.end_time
    assert sync(study, uri, experiment).values == 0
    check_study(client, experiment, study, nodes)
    assert runs_of(client, experiment)[study.name][0].info.end_time == before


def test_a_killed_server_loses_and_doubles_nothing(server, client, experiment, tmp_path):
    def kill() -> None:
        server.stop(signal.SIGKILL)
        time.sleep(1.5)
        server.start()

    drill(client, server.uri, experiment, tmp_path / "study", kill)


@pytest.mark.slow
@pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL is not installed")
def test_a_database_taken_away_loses_and_doubles_nothing(experiment, tmp_path):
    with Postgres() as postgres, Server(tmp_path / "server", postgres.uri) as server:
        command_lines = subprocess.run(
            ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
        )
        assert f"mlflow server --host 127.0.0.1 --port {server.port}" in command_lines.stdout
        assert f"secret@127.0.0.1:{postgres.port}" not in command_lines.stdout

        def take_away() -> None:
            postgres.stop()
            time.sleep(1.5)
            postgres.start()

        drill(MlflowClient(server.uri), server.uri, experiment, tmp_path / "study", take_away)
        assert "secret" not in server.log.read_text()


def test_a_follower_ends_with_its_supervisor(server, client, experiment, tmp_path):
    """Even where that is killed; what the job wrote until then is mirrored. The follower is no burden."""
    (node,) = make_study(tmp_path / "study", ["a"])
    with Journal(node) as journal:
        log_steps(journal, range(5))
    script = f"""
        import sys, time
        from pathlib import Path
        from adit_scale.tracking.follower import Follower
        follower = Follower(Path({str(node)!r}), {server.uri!r}, {experiment!r})
        assert "mlflow" not in sys.modules
        print(follower._process.pid, flush=True)
        time.sleep(600)
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 19, 60, "priority")
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60, "end of the follower")
    (run,) = runs_of(client, experiment)["diffusion-a"]
    assert lost_and_doubled(client, run, node) == (0, 0)


def test_a_follower_of_a_dead_server_leaves_in_time(tmp_path):
    (node,) = make_study(tmp_path / "study", ["a"])
    with Journal(node) as journal:
        log_steps(journal, range(5))
    begin = time.monotonic()
    with Follower(node, "http://someone:secret@127.0.0.1:9", "x") as started:
        process = started._process
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) >= 10, 60, "start")
        words = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "***@127.0.0.1" in words
        assert "secret" not in words
    assert process.returncode is not None
    assert time.monotonic() - begin < 75
    assert Follower(node, "sqlite:///x.db", "x")._process is None
    assert Follower(node, "", "x")._process is None


def test_a_request_that_arrived_late_leaves_no_second_run(server, client, experiment, tmp_path):
    """Twins of a run and of its parent, as a request makes that was thought lost, are removed."""
    study = tmp_path / "study"
    (node,) = make_study(study, ["a"])
    with Journal(node) as journal:
        log_steps(journal, range(5))
    assert sync(study, server.uri, experiment).values == 45
    for (run,) in runs_of(client, experiment).values():
        early = run.info.start_time - 1
        own = {k: v for k, v in run.data.tags.items() if not k.startswith((MARK_TAG, "mlflow.user"))}
        client.create_run(run.info.experiment_id, early, own, run.info.run_name)
    for known in (True, False):
        if not known:
            (study / RUNS).unlink()
            (node / RUNS).unlink()
        assert sync(study, server.uri, experiment).values == 0
        runs = runs_of(client, experiment)
        assert {name: len(found) for name, found in runs.items()} == {"study": 1, "diffusion-a": 1}
        (run,) = runs["diffusion-a"]
        assert run.data.tags[PARENT_TAG] == runs["study"][0].info.run_id
        assert lost_and_doubled(client, run, node) == (0, 0)


def test_sync_heals_tags_endings_and_a_cut_mark(server, client, experiment, tmp_path):
    study = tmp_path / "study"
    (node,) = make_study(study, ["a"])
    attempt(node, event="start", job="7", host="h", nodes="h", tasks=1)
    with Journal(node) as journal:
        log_steps(journal, range(5))
    sync(study, server.uri, experiment)
    (run,) = runs_of(client, experiment)["diffusion-a"]
    assert run.info.status == "RUNNING"
    client.delete_tag(run.info.run_id, "adit.seed")
    client.set_tag(run.info.run_id, PARENT_TAG, "elsewhere")
    client.set_tag(run.info.run_id, MARK_TAG, Mark().to_json())
    attempt(node, event="end", code=1, outcome="failed", reason="loss")
    (node / "FAILED.json").write_text(json.dumps({"reason": "no://u:secret@h: loss is not finite"}))
    assert sync(study, server.uri, experiment).values == 0
    runs = runs_of(client, experiment)
    (run,), (parent,) = runs["diffusion-a"], runs["study"]
    assert (run.info.status, run.data.tags["adit.seed"]) == ("FAILED", "0")
    assert run.data.tags["adit.failure"] == "no://***@h: loss is not finite"
    assert run.data.tags[PARENT_TAG] == parent.info.run_id
    assert lost_and_doubled(client, run, node) == (0, 0)
    (node / "FAILED.json").unlink()  # tried again, and stopped by a person
    attempt(node, event="start", job="8", host="h", nodes="h", tasks=1)
    attempt(node, event="end", code=1, outcome="stopped", reason="cancelled")
    sync(study, server.uri, experiment)
    (run,) = runs_of(client, experiment)["diffusion-a"]
    assert (run.info.status, run.data.tags["adit.slurm_job"], run.data.tags["adit.restarts"]) == (
        "KILLED",
        "8",
        "1",
    )
    assert "adit.failure" not in run.data.tags


def test_a_password_that_was_taken_out_comes_by_the_environment(server, experiment, tmp_path, monkeypatch):
    (node,) = make_study(tmp_path / "study", ["a"])
    with Journal(node) as journal:
        log_steps(journal, range(2))
    shown = "http://***@127.0.0.1:1"
    with pytest.raises(ValueError, match=f"environment variable {URI_VARIABLE}"):
        sync(tmp_path, shown, experiment)
    monkeypatch.setenv(URI_VARIABLE, server.uri)
    assert sync(tmp_path, shown, experiment).values == 18
    assert server.uri in json.loads((node / RUNS).read_text())
    tailer = Tailer(server.uri, experiment)
    tailer.add_folder(node)
    assert tailer.poll() == 0
