"""The mirror, against a real SQLite store: one value a key and step, whatever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from adit_scale.errors import ConfigError, DataError
from adit_scale.tracking.__main__ import main
from adit_scale.tracking.config import StoreUnavailable
from adit_scale.tracking.increments import Mark
from adit_scale.tracking.journal import SIDE_FOLDER, Journal
from adit_scale.tracking.mlflow_sink import MARK_TAG, MlflowStore, ensure_store
from adit_scale.tracking.sync import mirror, sync
from adit_scale.tracking.tailer import Tailer

DEAD_URI = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """One database for the module: creating it costs seconds. Each test has an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/new/mlflow.db"


@pytest.fixture
def experiment(request) -> str:
    return request.node.name


@pytest.fixture
def client(uri) -> MlflowClient:
    return MlflowClient(uri)


def log(journal: Journal, steps: range, time_s: float = 1000.0) -> None:
    for step in steps:
        clock = {"time_s": time_s + step, "atoms_per_s": 100.0 * time_s}
        journal.log_metrics(step, {"train/loss": 1 / (step + 3), "flops_cum": 10**15 * step}, clock)
    journal.flush()


def history(client: MlflowClient, run_id: str, key: str = "train/loss") -> list[tuple[int, float, int]]:
    points = client.get_metric_history(run_id, key)
    return sorted((p.step, p.value, p.timestamp) for p in points)


def expected(steps: range, time_s: float = 1000.0) -> list[tuple[int, float, int]]:
    return [(step, 1 / (step + 3), round((time_s + step) * 1000)) for step in steps]


def test_mirroring_twice_adds_nothing(uri, experiment, client, tmp_path):
    with Journal(tmp_path) as journal:
        journal.log_params({"model": {f"p{i}": i for i in range(130)}})
        log(journal, range(700))  # 2,100 values: three batches
    first = mirror(tmp_path, uri, experiment, "point-64", tags={"adit.kind": "point"})
    assert first is not None
    assert mirror(journal.path, uri, experiment, "point-64") == first
    assert history(client, first) == expected(range(700))
    assert len(client.get_metric_history(first, "clock/atoms_per_s")) == 700
    run = client.get_run(first)
    assert len(run.data.params) == 130
    assert run.data.params["model.p129"] == "129"
    assert run.data.tags["adit.kind"] == "point"
    assert run.data.tags["mlflow.runName"] == "point-64"
    mark = json.loads(run.data.tags[MARK_TAG])
    assert (mark["offset"], mark["step"]) == (journal.offset, 699)
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_truncated_and_rewritten_journal_keeps_single_values(uri, experiment, client, tmp_path):
    tailer = Tailer(uri, experiment)
    with Journal(tmp_path) as journal:
        handle = tailer.add(tmp_path, "run")
        log(journal, range(4))
        journal.sync()
        offset = journal.offset
        log(journal, range(4, 8))
        assert tailer.poll() == 24
        assert tailer.poll() == 0
        journal.truncate(offset)
        log(journal, range(4, 6), time_s=5000.0)  # behind what is mirrored
        assert tailer.poll() == 0
        log(journal, range(6, 10), time_s=5000.0)
        assert tailer.poll() == 6
    run_id = tailer.run_id(handle)
    assert history(client, run_id) == expected(range(8)) + expected(range(8, 10), time_s=5000.0)


def test_a_mirror_killed_between_values_and_mark_loses_and_doubles_nothing(uri, experiment, client, tmp_path):
    """A real process dies with the values written and the mark not; the run is resumed meanwhile."""
    with Journal(tmp_path) as journal:
        offset = journal.offset
        log(journal, range(5))
        ensure_store(uri, experiment)
        script = f"""
            import os, signal
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
            from adit_scale.tracking import sync
            def die(*_): os.kill(os.getpid(), signal.SIGKILL)
            SqlAlchemyStore._set_tags = die
            sync.mirror({str(tmp_path)!r}, {uri!r}, {experiment!r}, "run")
        """
        killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
        assert killed.returncode == -signal.SIGKILL
        (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
        assert MARK_TAG not in run.data.tags
        assert history(client, run.info.run_id) == expected(range(5))
        assert mirror(tmp_path, uri, experiment, "run") == run.info.run_id
        assert history(client, run.info.run_id) == expected(range(5))
        client.set_tag(run.info.run_id, MARK_TAG, Mark().to_json())  # killed again, and resumed from step 0
        journal.truncate(offset)
        log(journal, range(7), time_s=5000.0)
    mirror(tmp_path, uri, experiment, "run")
    rest = expected(range(5, 7), time_s=5000.0)
    assert history(client, run.info.run_id) == expected(range(5)) + rest
    assert len(client.search_runs(run.info.experiment_id)) == 1


def test_a_background_tailer_follows_writers_through_torn_lines(uri, experiment, client, tmp_path):
    def write(folder: Path) -> None:
        with Journal(folder) as journal:
            log(journal, range(30))
            whole = journal.path.read_bytes().splitlines(keepends=True)[-1]
        with (folder / "journal.jsonl").open("ab", buffering=0) as file:  # the last line, byte by byte
            line = whole.replace(b'"step":29', b'"step":30')
            for i in range(0, len(line), 10):
                file.write(line[i : i + 10])
                time.sleep(0.01)

    folders = [tmp_path / name for name in "ab"]
    with Tailer(uri, experiment, interval_s=0.02) as tailer:
        parent = tailer.start_parent("study", {"owner": "me"})
        handles = [tailer.add(folder, folder.name, parent_run_id=parent) for folder in folders]
        writers = [threading.Thread(target=write, args=(folder,)) for folder in folders]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for handle in handles:
            tailer.finish(handle)
    assert not tailer.pending
    assert tailer.run_id(parent) is not None
    for handle in handles:
        run = client.get_run(tailer.run_id(handle))
        assert [step for step, _, _ in history(client, run.info.run_id)] == list(range(31))
        assert run.data.tags["mlflow.parentRunId"] == tailer.run_id(parent)
        assert run.info.status == "FINISHED"
        assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_029_000)
    assert client.get_run(tailer.run_id(parent)).data.tags["owner"] == "me"


def test_a_run_ending_during_a_poll_keeps_its_end(uri, experiment, client, tmp_path, monkeypatch):
    tailer = Tailer(uri, experiment)
    write = MlflowStore.write
    with Journal(tmp_path) as journal:
        handle = tailer.add(tmp_path, "run")

        def write_while_the_run_ends(*arguments):
            write(*arguments)
            monkeypatch.setattr(MlflowStore, "write", write)
            log(journal, range(3, 5))
            tailer.finish(handle)

        log(journal, range(3))
        monkeypatch.setattr(MlflowStore, "write", write_while_the_run_ends)
        assert tailer.poll() == 9
        assert tailer.pending
        assert tailer.poll() == 6
    run = client.get_run(tailer.run_id(handle))
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1_004_000)
    assert history(client, run.info.run_id) == expected(range(5))


def test_a_dead_store_costs_no_step_and_loses_nothing(uri, experiment, client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with Journal(tmp_path / "run") as journal:
        tailer = Tailer(DEAD_URI, experiment, interval_s=0.01)
        parent = tailer.start_parent("study")
        handle = tailer.add(tmp_path / "run", "run", parent_run_id=parent)
        tailer.start()
        begin = time.monotonic()
        log(journal, range(1000))
        assert time.monotonic() - begin < 5.0
    assert tailer.stop() is False
    assert "127.0.0.1:9" in tailer.last_error
    assert tailer.run_id(handle) is None
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        ensure_store(DEAD_URI, experiment)

    tailer.uri = uri  # the store is back
    assert tailer.poll() == 3000
    assert not tailer.pending
    assert len(history(client, tailer.run_id(handle))) == 1000
    assert client.get_run(tailer.run_id(parent)).info.run_name == "study"


def test_one_damaged_or_deleted_run_does_not_hold_up_the_others(uri, experiment, client, tmp_path):
    tailer = Tailer(uri, experiment)
    handles = {}
    for name in ("bad", "deleted", "good"):
        with Journal(tmp_path / name) as journal:
            log(journal, range(3))
        handles[name] = tailer.add(tmp_path / name, name)
    bad = tmp_path / "bad" / "journal.jsonl"
    bad.write_bytes(bad.read_bytes().replace(b'"step":1', b'"step":x'))
    assert tailer.poll() == 18
    (failure,) = tailer.failures()
    assert "line 3: damaged" in failure
    client.delete_run(tailer.run_id(handles["deleted"]))
    for name in ("deleted", "good"):
        with Journal(tmp_path / name) as journal:
            log(journal, range(3, 5))
    assert tailer.poll() == 6
    assert len(tailer.failures()) == 1
    again = Tailer(uri, experiment)
    deleted = again.add(tmp_path / "deleted", "deleted")
    assert (again.poll(), again.run_id(deleted), again.pending) == (0, None, False)
    with pytest.raises(DataError, match="line 3"):
        mirror(bad, uri, experiment, "bad")


def test_a_second_journal_goes_into_the_same_run(uri, experiment, client, tmp_path, capsys):
    """Its records come late, at steps below those mirrored; it is cut and written again on its own."""
    folder = tmp_path / "run"
    tailer = Tailer(uri, experiment)
    run = tailer.add(folder, "run")
    with Journal(folder) as journal, Journal(folder / SIDE_FOLDER) as side:
        log(journal, range(5))
        assert tailer.poll() == 15
        side.log_metrics(1, {"samples/rate": 0.5}, {"time_s": 2000.0})
        side.log_event("samples_failed", 2, {"reason": "no sign of life"})
        side.flush()
        assert tailer.poll() == 1
        offset = side.offset
        side.log_metrics(3, {"samples/rate": 0.25}, {"time_s": 2001.0})
        side.flush()
        assert tailer.poll() == 1
        side.truncate(offset)
        for step in (3, 4):
            side.log_metrics(step, {"samples/rate": 1 / (step + 1)}, {"time_s": 3000.0 + step})
        side.flush()
        log(journal, range(5, 6))
        assert tailer.poll() == 3 + 1
    run_id = tailer.run_id(run)
    points = history(client, run_id, "samples/rate")
    assert points == [(1, 0.5, 2_000_000), (3, 0.25, 2_001_000), (4, 0.2, 3_004_000)]
    assert history(client, run_id) == expected(range(6))
    assert "no sign of life" in client.get_run(run_id).data.tags["event/samples_failed"]
    assert main(["sync", str(tmp_path), "--uri", uri, "--experiment", experiment]) == 0
    assert "1 journals, 0 new values" in capsys.readouterr().out
    assert len(client.search_runs([client.get_experiment_by_name(experiment).experiment_id])) == 1


def test_a_run_folder_made_anew_is_a_new_run(uri, experiment, client, tmp_path):
    tailer = Tailer(uri, experiment)
    handle = tailer.add(tmp_path, "run")
    runs = []
    for _ in range(2):
        (tmp_path / "journal.jsonl").unlink(missing_ok=True)
        with Journal(tmp_path) as journal:
            log(journal, range(3))
        assert tailer.poll() == 9
        runs.append(tailer.run_id(handle))
    assert runs[0] != runs[1]
    assert history(client, runs[1]) == expected(range(3))


def test_a_job_that_never_wrote_a_journal_leaves_nothing_to_do(uri, experiment, client, tmp_path):
    tailer = Tailer(uri, experiment)
    tailer.finish(tailer.add(tmp_path / "failed_at_start", "run"), "FAILED")
    assert tailer.stop() is True
    assert client.search_runs([client.get_experiment_by_name(experiment).experiment_id]) == []


def test_study_results_are_written_once(uri, experiment, client, tmp_path):
    report = tmp_path / "demo" / "report-12345678"
    (report / "report").mkdir(parents=True)
    (report / "report" / "law.html").write_text("<html></html>")
    (report / "node.json").write_text(json.dumps({"kind": "report", "study": "demo"}))

    def results(**metrics: float) -> None:
        (report / "DONE.json").write_text(json.dumps({"metrics": metrics}))
        assert sync(tmp_path, uri, experiment).failures == []

    results(alpha=0.34, held_out_error=float("nan"))
    results(alpha=0.34, held_out_error=float("nan"))
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    first = run.info.run_id
    assert [(p.step, p.value) for p in client.get_metric_history(first, "alpha")] == [(0, 0.34)]
    assert len(client.get_metric_history(first, "held_out_error")) == 1
    assert [file.path for file in client.list_artifacts(first, "report")] == ["report/law.html"]
    results(alpha=0.35)
    assert [(p.step, p.value) for p in client.get_metric_history(first, "alpha")] == [(0, 0.34), (1, 0.35)]
    assert client.get_run(first).info.status == "FINISHED"
    tailer = Tailer(uri, experiment)
    parent = tailer.start_parent("demo")
    tailer.poll()
    assert tailer.run_id(parent) == first
    assert client.get_run(first).info.status == "RUNNING"


def test_sync_finds_all_journals_and_nests_them(uri, experiment, client, tmp_path, capsys):
    for study, label, marker in [
        ("s1", "dit_64", "DONE.json"),
        ("s1", "dit_96", "FAILED.json"),
        ("s2", "", ""),
    ]:
        folder = tmp_path / study / f"point-{label}-12345678"
        with Journal(folder) as journal:
            log(journal, range(3))
        (folder / "node.json").write_text(json.dumps({"kind": "point", "label": label, "id": "12345678ab"}))
        if marker:
            (folder / marker).write_text("{}")
    Journal(tmp_path / "empty").close()
    arguments = ["sync", str(tmp_path), "--uri", uri, "--experiment", experiment]
    assert main(arguments) == 0
    assert "4 journals, 27 new values" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "4 journals, 0 new values" in capsys.readouterr().out
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert {name: run.info.status for name, run in by_name.items()} == {
        "s1": "FAILED",
        "s2": "RUNNING",
        "point-dit_64": "FINISHED",
        "point-dit_96": "FAILED",
        "point": "RUNNING",
    }
    parent = by_name["point-dit_64"].data.tags["mlflow.parentRunId"]
    assert parent == by_name["s1"].info.run_id == by_name["point-dit_96"].data.tags["mlflow.parentRunId"]
    assert by_name["s1"].info.start_time == 1_000_000
    assert main(["sync", str(tmp_path / "none"), "--uri", uri]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_store_is_made_once_by_concurrent_starts(tmp_path):
    """Named as the default is, below the folder that launch.py is started in."""
    script = "import sys, adit_scale.tracking.mlflow_sink as s; print(s.ensure_store(*sys.argv[1:]))"
    database = tmp_path / "runs" / "mlflow.db"
    command = [sys.executable, "-c", script, "sqlite:///runs/mlflow.db", "exp"]
    started = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert printed[0] == printed[1] == (printed[0][0], "")
    found = MlflowClient(f"sqlite:///{database}").get_experiment_by_name("exp")
    assert printed[0][0].strip() == found.experiment_id
    assert found.artifact_location == (database.parent / "artifacts" / "exp").as_uri()


def test_addresses_that_cannot_be_used():
    for bad in ("", "./mlruns", "file:///tmp/mlruns", "nonsense"):
        with pytest.raises(ConfigError, match=r"tracking\.uri: got"):
            ensure_store(bad, "exp")
    nowhere = Tailer("", "exp")
    nowhere.finish(nowhere.add("runs/x", "x"))
    assert (nowhere.poll(), nowhere.stop()) == (0, True)
