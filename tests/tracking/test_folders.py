"""What folders say about their runs, without any store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from adit_scale.errors import DataError
from adit_scale.tracking.folders import describe_run, describe_study, find_runs
from adit_scale.tracking.journal import Journal
from tests.tracking.studies import GIT_SHA, attempt, make_study


def test_a_study_ends_when_no_job_of_it_can_run(tmp_path):
    a, b = make_study(tmp_path, ["a", "b"])
    report = tmp_path / "report-1a2b3c4d"

    def status() -> str:
        return describe_study(tmp_path, "s").status

    assert status() == ""  # in the queue
    attempt(a, event="start", job="1_0", host="dev1")
    assert status() == "RUNNING"
    (a / "DONE.json").write_text("{}")
    attempt(b, event="end", outcome="stopped")
    assert status() == "KILLED"
    attempt(report, event="start", job="2_0", host="dev1")
    assert status() == "RUNNING"  # a report of what there is
    (report / "DONE.json").write_text(json.dumps({"metrics": {"x": 1.0}}))
    os.utime(report / "DONE.json", (3000.0, 3000.0))
    os.utime(a / "DONE.json", (2000.0, 2000.0))
    study = describe_study(tmp_path, "s")
    assert (study.status, study.end_ms, study.report, study.metrics) == ("KILLED", 3000000, report, {"x": 1})
    (b / "FAILED.json").write_text("{}")
    assert status() == "FAILED"
    (b / "FAILED.json").rename(b / "DONE.json")
    assert status() == "FINISHED"
    assert study.start_ms == 1795348800000
    assert study.tags["adit.git_sha"] == GIT_SHA
    assert study.tags["adit.git_dirty"] == "false"


def test_a_job_behind_a_failed_one_is_over(tmp_path):
    for name, inputs in (("train", {}), ("score", {"diffusion": "train"}), ("other", {})):
        (tmp_path / name).mkdir()
        places = {key: str(tmp_path / place) for key, place in inputs.items()}
        (tmp_path / name / "node.json").write_text(json.dumps({"kind": name, "inputs": places}))
    (tmp_path / "train" / "FAILED.json").write_text("{}")
    assert describe_study(tmp_path, "s").status == ""
    (tmp_path / "other" / "DONE.json").write_text("{}")
    assert describe_study(tmp_path, "s").status == "FAILED"


def test_the_last_attempt_names_job_and_machines(tmp_path):
    (node,) = make_study(tmp_path, ["a"])
    assert "adit.restarts" not in describe_run(node).tags
    attempt(node, event="start", job="7_1", host="dev1", nodes="dev[1-2]")
    attempt(node, event="end", outcome="requeued", reason="SIGTERM")
    assert describe_run(node).status == ""
    attempt(node, event="start", job="7_1", host="dev2", nodes="")
    with (node / "attempts.jsonl").open("a") as stream:
        stream.write('{"event": "start", "jo')  # torn by a crash
    told = describe_run(node)
    assert (told.status, told.name, told.study) == ("RUNNING", "diffusion-a", tmp_path.name)
    tags = {key: told.tags[f"adit.{key}"] for key in ("slurm_job", "host", "restarts", "size", "id")}
    assert tags == {"slurm_job": "7_1", "host": "dev2", "restarts": "1", "size": "a", "id": "1a2b3c4da"}


def test_runs_are_found_without_looking_into_checkpoints(tmp_path):
    (node,) = make_study(tmp_path / "study", ["a"])
    for place in (
        node / "branches" / "decay",
        node / "checkpoints" / "step-1",
        tmp_path / "study" / "code" / "tree",
        tmp_path / "code",  # a study of that name
    ):
        Journal(place).close()
    Journal(node / "scoring").close()
    found = [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)]
    assert found == [
        "code",
        "study/diffusion-a-1a2b3c4d",
        "study/diffusion-a-1a2b3c4d/branches/decay",
        "study/report-1a2b3c4d",
    ]


@pytest.mark.parametrize("name", ["node.json", "FAILED.json"])
def test_a_damaged_file_is_named(name, tmp_path):
    (node,) = make_study(tmp_path, ["a"])
    (node / name).write_text("{")
    with pytest.raises(DataError, match=f"{name}: not JSON"):
        describe_run(node)
    Path(node / name).write_text("[]")
    with pytest.raises(DataError, match=f"{name}: got a list"):
        describe_run(node)
