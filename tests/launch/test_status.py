"""States, numbers and the table of ``launch.py status``, from what jobs leave in their folders."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from adit_scale.errors import ConfigError
from adit_scale.jobs.node import Result
from adit_scale.tracking.journal import SIDE_FOLDER, Journal
from launchers import watch
from launchers.record import StudyRecord
from launchers.status import page, status, summary, table
from launchers.survey import survey
from launchers.tails import SHORT_BYTES, last_line, progress
from tests.launch.submitted import Submitted

HOLD = "import sys, time; from pathlib import Path; from adit_scale.jobs.node import running_lock\n"
HOLD += "with running_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def study(tmp_path: Path) -> Submitted:
    return Submitted(tmp_path / "demo")


def metrics(folder: Path, step: int, time_s: float, **values: float) -> None:
    with Journal(folder) as journal:
        named = {name.replace("_", "/"): value for name, value in values.items()}
        journal.log_metrics(step, named, {"time_s": time_s, "step_s": 0.5, "atoms_per_s": 2000.0})


def test_states_come_from_markers(study):
    assert set(study.states().values()) == {"waiting"}
    study.finish("shards", "autoencoder", "diffusion a")
    study.node("diffusion b").fail("diverged", 3.0, final=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(study.nodes["evaluation a"].folder)],
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stdout.readline() == "held\n"
        assert study.states() == {
            "shards": "done",
            "autoencoder": "done",
            "diffusion a": "done",
            "evaluation a": "running",
            "diffusion b": "failed",
            "evaluation b": "blocked",
            "report": "waiting",
        }
        found = survey(StudyRecord.load(study.folder))
        assert found.points == {"running": 1, "failed": 1}
        job.kill()
    assert study.row("evaluation a").state == "waiting"
    assert study.row("evaluation b").why == "diffusion b"
    assert study.row("diffusion b").detail == "diverged"
    study.finish("evaluation a", "report")
    found = survey(StudyRecord.load(study.folder))
    assert found.points == {"done": 1, "failed": 1}
    assert found.ended
    assert summary(found).startswith(
        "study demo: 1 of 2 points done, 1 failed; 0 process-hours used; nothing is"
    )


def test_done_means_what_the_launcher_means_by_it(study):
    study.finish("shards", "autoencoder", "diffusion a", "evaluation a")
    (study.nodes["diffusion a"].folder / "out.txt").unlink()
    assert study.row("diffusion a").state == "waiting"
    assert study.row("evaluation a").state == "done"
    study.finish("autoencoder", "diffusion a")
    assert study.row("diffusion a").state == "done"
    (study.nodes["autoencoder"].folder / "out.txt").write_text("other weights")
    weights = study.nodes["autoencoder"].folder / "out.txt"
    study.node("autoencoder").succeed(Result((weights,)), 1.0)
    assert study.row("diffusion a").state == "waiting"


def test_a_damaged_marker_is_a_failed_job_and_not_a_failed_table(study):
    (study.nodes["shards"].folder / "DONE.json").write_text('{"kind": "sha')
    row = study.row("shards")
    assert row.state == "failed"
    assert "DONE.json: not JSON" in row.detail


def test_progress_of_a_training_run(study):
    run = study.nodes["diffusion a"].folder
    now = time.time()
    study.attempt("diffusion a", now - 500, now - 400, "requeued", "time limit")
    study.attempt("diffusion a", now - 100)
    metrics(run, 10, now - 410, train_loss=3.0)
    metrics(run, 20, now - 90, validation_loss=2.0)
    for step in (30, 40, 50):
        metrics(run, step, now - 90 + step, train_loss=1.0)
    with (run / "journal.jsonl").open("a") as stream:
        stream.write('{"kind":"metrics","step":60,"values":{"train/loss":0.')  # being written
    found = progress(run, now - 100)
    assert (found.step, found.loss, found.loss_of) == (50, 2.0, "validation")
    assert found.atoms_per_s == 2000.0
    assert found.step_s == pytest.approx(1.0)  # of this attempt: not the 340 s between the two
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout.readline() == "held\n"
        row = study.row("diffusion a")
        assert row.time_left_s == pytest.approx(50.0)
        assert row.restarts == 1
        assert row.elapsed_s == pytest.approx(200, abs=5)
        assert row.detail == "again after: time limit"
        job.kill()


def test_a_validation_far_back_is_found_and_train_loss_says_so(tmp_path):
    with Journal(tmp_path) as journal:
        journal.log_metrics(10, {"train/loss": 5.0})
        journal.flush()
        assert progress(tmp_path).loss_of == "train"
        journal.log_metrics(10, {"validation/loss": 0.5})
        for step in range(11, 2011):
            journal.log_metrics(step, {"train/loss": 1.0, "train/loss/demo": 1.0}, {"atoms_per_s": 1.0})
    assert (tmp_path / "journal.jsonl").stat().st_size > 4 * SHORT_BYTES
    found = progress(tmp_path)
    assert (found.step, found.loss, found.loss_of) == (2010, 0.5, "validation")


def test_only_the_end_of_a_journal_is_read(tmp_path):
    with (tmp_path / "journal.jsonl").open("wb") as stream:
        stream.seek(1 << 32)  # as long as that, and empty
        line = '{"kind":"metrics","step":7,"values":{"train/loss":"nan"},"clock":{"time_s":1.0}}'
        stream.write(f"\n{line}\n".encode())
    begin = time.monotonic()
    assert progress(tmp_path).step == 7
    assert time.monotonic() - begin < 0.5


def test_progress_of_nothing(tmp_path):
    assert progress(tmp_path).step is None
    (tmp_path / "journal.jsonl").write_text('{"kind":"journal","version":1,"id":"x"}\n')
    assert progress(tmp_path).loss is None
    (tmp_path / "log.txt").write_text("-- started 2026-11-22 12:00:00 job 1_2\n")
    assert last_line(tmp_path / "log.txt") == ""


def test_validity_beside_the_training_and_of_the_final_samples(study):
    with Journal(study.nodes["diffusion a"].folder / SIDE_FOLDER) as side:
        side.log_metrics(10, {"samples/crystal/validity": 0.1, "samples/molecule/edm_validity": 0.2})
        side.log_metrics(20, {"samples/crystal/validity": 0.3, "samples/molecule/edm_validity": 0.4})
        side.log_event("samples_failed", 30, {"reason": "slow"})
    assert study.row("diffusion a").validity == {"crystal": 0.3, "molecule": 0.4}
    study.finish("shards", "autoencoder", "diffusion a")
    study.finish(
        "evaluation a", scores={"crystal/validity": {"value": 0.75}, "crystal/novelty": {"value": None}}
    )
    assert study.row("evaluation a").validity == {"crystal": 0.75}


def test_gpu_hours_count_every_attempt_and_rank(tmp_path):
    study = Submitted(tmp_path / "demo", gpus=2)
    now = time.time()
    study.attempt("diffusion a", now - 7200, now - 3600, "requeued", "time limit", tasks=4)
    study.attempt("diffusion a", now - 3600, tasks=4)  # killed without a word ...
    study.attempt(
        "diffusion a", now - 1800, now - 900, "stopped", "SIGTERM", tasks=4
    )  # ... until here at most
    log = study.nodes["diffusion a"].folder / "log.txt"
    log.write_text("")
    os.utime(log, (now - 2700, now - 2700))
    row = study.row("diffusion a")
    assert row.elapsed_s == pytest.approx(3600 + 900 + 900)
    assert row.gpu_hours == pytest.approx(4 * 1.5)
    assert (row.state, row.detail, row.restarts) == ("stopped", "SIGTERM", 2)
    assert "; 6 GPU-hours used" in summary(survey(StudyRecord.load(study.folder)))


def test_a_launcher_that_waits_to_try_again(study):
    study.attempt("diffusion a", 1.0, 2.0, "retrying", "CUDA error; try 2 of 4")
    assert study.row("diffusion a").state == "waiting"  # no launcher is there to do it
    from launchers.lock import study_lock

    with study_lock(study.folder):
        row = study.row("diffusion a")
        assert (row.state, row.why, row.detail) == ("retrying", "2/4", "CUDA error; try 2 of 4")
        assert not survey(StudyRecord.load(study.folder)).ended
    assert survey(StudyRecord.load(study.folder)).ended


def filled(study: Submitted) -> None:
    """A row of every width."""
    study.finish("shards", "autoencoder")
    now = time.time()
    study.attempt("diffusion a", now - 9000, now - 8000, "requeued", "time limit")
    study.attempt("diffusion a", now - 8000, now - 10, "stopped", "SIGTERM")
    run = study.nodes["diffusion a"].folder
    metrics(run, 10, now - 100, validation_loss=1.25)
    metrics(run, 20, now - 90, train_loss=1.0)
    with Journal(run / SIDE_FOLDER) as side:
        side.log_metrics(20, {"samples/crystal/validity": 0.5, "samples/molecule/edm_validity": 0.25})
    study.node("diffusion b").fail("the loss of more than 10 steps in a row was not finite " * 3, 3.0)


@pytest.mark.parametrize("width", [50, 60, 80, 120, 200])
def test_the_table_fits_and_leaves_out_the_least_important(study, width):
    filled(study)
    lines = [line.plain for line in table(survey(StudyRecord.load(study.folder)).rows, width)]
    assert max(map(len, lines)) <= width
    assert len(lines) == 8
    header = lines[0].split()
    assert header[:4] == ["job", "state", "step", "loss"]
    row = next(line for line in lines if line.startswith("diffusion a"))
    assert "20/100" in row
    assert "1.25" in row
    assert ("validity" in header) == (width >= 60)
    assert ("atoms/s" in header) == (width >= 120)
    assert ("restarts" in header) == (width >= 120)


def test_what_failed_is_told_in_full(study):
    filled(study)
    text = "\n".join(line.plain for line in page(survey(StudyRecord.load(study.folder)), 80))
    assert "the loss of more than 10 steps in a row was not finite " * 3 in text


def test_json_has_stable_keys(study, capsys):
    filled(study)
    metrics(study.nodes["diffusion a"].folder, 30, time.time(), validation_loss=float("nan"))
    assert status(study.folder, as_json=True) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert list(found) == [
        *("study", "folder", "launcher", "submitted", "user", "time", "ended", "notes", "points"),
        *("gpu_hours", "process_hours", "jobs"),
    ]
    assert found["points"] == {"total": 2, "stopped": 1, "failed": 1}
    job = next(job for job in found["jobs"] if job["job"] == "diffusion a")
    assert list(job) == [
        *("job", "kind", "label", "id", "folder", "state", "why", "detail", "slurm_job", "hosts", "user"),
        *("step", "steps", "loss", "loss_of", "atoms_per_s", "validity", "time_left_s", "restarts"),
        *("elapsed_s", "gpu_hours"),
    ]
    assert (job["step"], job["steps"], job["loss"]) == (30, 100, None)
    assert job["validity"] == {"crystal": 0.5, "molecule": 0.25}


def test_watching_in_a_log_ends_with_the_study(study, monkeypatch):
    """Lines only where something changed; a real job ends meanwhile."""
    monkeypatch.setattr(watch, "REFRESH_S", 0.05)
    study.finish("shards", "autoencoder", "diffusion a", "diffusion b", "evaluation b", "report")
    code = "import sys, time; from pathlib import Path; from adit_scale.jobs.node import *\n"
    code += "folder = Path(sys.argv[1]); node = NodeFolder.load(folder)\n"
    code += "with running_lock(folder): print('held', flush=True); time.sleep(1); (folder / 'o').touch(); "
    code += "node.succeed(Result((folder / 'o',)), 1.0)"
    node = study.node("evaluation a")
    node.save()
    out = io.StringIO()
    with subprocess.Popen([sys.executable, "-c", code, str(node.path)], stdout=subprocess.PIPE) as job:
        assert job.stdout.readline() == b"held\n"
        assert watch.watch_study(StudyRecord.load(study.folder), Console(file=out, width=80)) == 1
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "1 of 2 points done, 1 running" in lines[0]
    assert "2 of 2 points done" in lines[1]  # the report lacks one: it is to be made again


def test_a_screenful_shows_what_goes_on_first(tmp_path):
    study = Submitted(tmp_path / "demo", labels="abcdefghijklmnopqrstuvwxyz")
    study.finish("shards", "autoencoder", *(f"diffusion {label}" for label in "abcdefghijklmnopqrs"))
    study.node("diffusion z").fail("full disk", 1.0)
    lines = [line.plain for line in watch.screenful(survey(StudyRecord.load(study.folder)), 80, 24)]
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("diffusion z") for line in lines)
    assert not any(line.startswith("diffusion a") for line in lines)
    assert lines[-1] == "and 36 more jobs: launch.py status"


def test_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="no study was submitted here"):
        status(tmp_path)
    with pytest.raises(ConfigError, match="got --json and --watch; expected one"):
        status(tmp_path, as_json=True, watch=True)


def test_imports_are_light():
    code = "import sys, launchers.status, launchers.watch, launchers.logs\n"
    code += "print({'torch', 'mlflow', 'hydra', 'numpy', 'omegaconf', 'submitit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
