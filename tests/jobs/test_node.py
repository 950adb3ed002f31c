"""Markers of a node's folder: whole or absent, with digests that are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.errors import DataError
from adit_scale.jobs.node import (
    NodeBusy,
    NodeFolder,
    Result,
    failure_reason,
    is_running,
    read_done,
    result_digest,
    running_lock,
)
from adit_scale.scaling.config import SweepConfig


def make(path: Path, kind: str = "shards", **inputs: Path) -> NodeFolder:
    path.mkdir()
    node = NodeFolder(path, kind, "ab" * 32, "", "study", inputs)
    node.save()
    config = StudyConfig(sweep=SweepConfig(grid={"model/denoiser": ["dit_s"]}))
    config.data.shards = str(path / "no_shards")
    settings.save(config, path / "config.yaml")
    return node


def test_a_node_reads_back_as_written(tmp_path):
    source = make(tmp_path / "a")
    node = make(tmp_path / "b", source=source.path)
    assert NodeFolder.load(node.path) == node


def test_done_holds_digests_that_consumers_check(tmp_path):
    source = make(tmp_path / "a")
    (source.path / "w.bin").write_bytes(b"abc")
    source.succeed(Result((source.path / "w.bin",), {"n": 3}), 1.5)
    record = read_done(source.path)
    assert record["outputs"] == {
        "w.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256 of "abc"
    }
    assert (record["n"], record["wall_s"]) == (3, 1.5)
    node = make(tmp_path / "b", source=source.path)
    node.verify_inputs()
    before = result_digest(source.path)
    (source.path / "w.bin").write_bytes(b"abd")
    with pytest.raises(DataError, match=r"a/w.bin: input 'source' of b has digest .* expected ba7816bf"):
        node.verify_inputs()
    source.succeed(Result((source.path / "w.bin",)), 1.0)
    assert result_digest(source.path) != before


def test_an_input_that_has_not_finished_is_named(tmp_path):
    source = make(tmp_path / "a")
    with pytest.raises(DataError, match=r"DONE.json: no such file; expected the marker of a finished node"):
        make(tmp_path / "b", source=source.path).verify_inputs()


def test_success_takes_the_failure_away(tmp_path):
    node = make(tmp_path / "a")
    node.fail("no luck", 1.0)
    assert failure_reason(node.path) == "no luck"
    node.succeed(Result(), 1.0)
    assert failure_reason(node.path) is None
    assert sorted(p.name for p in node.path.iterdir()) == ["DONE.json", "config.yaml", "node.json"]


def test_a_node_runs_once_at_a_time(tmp_path):
    node = make(tmp_path / "a")
    assert not is_running(node.path)
    with running_lock(node.path):
        assert is_running(node.path)
        with pytest.raises(NodeBusy), running_lock(node.path):
            pass
    assert not is_running(node.path)


def run_job(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adit_scale.jobs", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_users_mistake_is_one_line_and_a_marker(tmp_path):
    node = make(tmp_path / "a")
    done = run_job(node.path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no_shards/manifest.json: no such file" in done.stderr
    record = json.loads((node.path / "FAILED.json").read_text())
    assert record["reason"] == done.stderr.strip()


def test_a_bug_keeps_its_traceback(tmp_path):
    node = make(tmp_path / "a", kind="no_such_kind")
    done = run_job(node.path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert failure_reason(node.path) == "KeyError: 'no_such_kind'"
