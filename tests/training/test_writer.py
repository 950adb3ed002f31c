"""Saving behind the training steps: what a snapshot holds, how long it stalls, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file

from adit_scale.errors import CheckpointError
from adit_scale.training import checkpoint, writer
from adit_scale.training.checkpoint import TrainState
from adit_scale.training.retention import Policy
from adit_scale.training.writer import CheckpointWriter, Snapshot, write_checked
from tests.training import runs

CPU = torch.device("cpu")


def test_a_snapshot_is_the_safetensors_file_it_becomes(tmp_path):
    base = torch.arange(100, dtype=torch.float32)
    tensors = {
        "master|a|0": base[3:40],  # a view, as fragments are
        "counter|b|0": torch.tensor([1 / 3, 2.0], dtype=torch.float64),
        "ema|c|7": torch.randn(5),
        "master|empty|0": torch.empty(0),
    }
    snapshot = Snapshot(CPU)
    n_bytes = snapshot.plan(tensors)
    snapshot.take(tensors)
    base.zero_()  # training goes on
    entry = write_checked(tmp_path / "x.safetensors", snapshot.content())
    assert entry["bytes"] == n_bytes == (tmp_path / "x.safetensors").stat().st_size
    found = load_file(tmp_path / "x.safetensors")
    assert found["master|a|0"].tolist() == list(range(3, 40))
    assert sorted(found) == sorted(tensors)
    for name in ("counter|b|0", "ema|c|7", "master|empty|0"):
        assert torch.equal(found[name], tensors[name])


def test_the_buffer_is_kept_between_saves():
    snapshot = Snapshot(CPU)
    places = []
    for n_counters in (0, 3, 1):  # running sums come and go
        tensors = {"master|a|0": torch.ones(1000)}
        tensors |= {f"counter|{i}|0": torch.ones(2, dtype=torch.float64) for i in range(n_counters)}
        snapshot.plan(tensors)
        snapshot.take(tensors)
        places.append(snapshot._buffer.data_ptr())
    assert len(set(places)) == 1


@pytest.fixture
def slow_disk(monkeypatch) -> threading.Event:
    """Files are written only once the event is set."""
    event = threading.Event()
    real = writer.write_checked

    def waiting(*args):
        assert event.wait(20)
        return real(*args)

    monkeypatch.setattr(writer, "write_checked", waiting)
    return event


def test_training_goes_on_while_a_save_is_written(tmp_path, single_process, slow_disk):
    weights = torch.ones(1000)
    with CheckpointWriter(tmp_path, CPU) as saving:
        saving.save(TrainState(step=1), {"master|w|0": weights})
        weights.fill_(2.0)  # before a byte of it is on disk
        assert checkpoint.committed(tmp_path) == []
        slow_disk.set()
        saving.save(TrainState(step=2), {"master|w|0": weights})  # waits for the one before
        assert checkpoint.is_committed(tmp_path / "step-00000001")
    for step in (1, 2):
        found = checkpoint.Checkpoint(tmp_path / f"step-0000000{step}").read("w", 0, 1000, "master")
        assert torch.equal(found, torch.full((1000,), float(step)))


def test_a_run_that_fails_still_lets_its_last_save_finish(tmp_path, single_process, slow_disk):
    slow_disk.set()
    saving = CheckpointWriter(tmp_path, CPU)

    def fail() -> None:
        with saving:
            saving.save(TrainState(step=1), {"master|w|0": torch.ones(10)})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in checkpoint.committed(tmp_path)] == ["step-00000001"]


def test_bytes_that_do_not_read_back_fail_the_save(tmp_path, single_process, monkeypatch):
    monkeypatch.setattr(writer.np, "array_equal", lambda *_: False)
    saving = CheckpointWriter(tmp_path, CPU)
    saving.save(TrainState(step=1), {"master|w|0": torch.ones(10)})
    with pytest.raises(CheckpointError, match=r"rank 0: .*rank-00000\.safetensors: reads back other bytes"):
        saving.wait()
    assert checkpoint.committed(tmp_path) == []


def test_a_killed_save_is_cleared_before_the_next(tmp_path, single_process):
    old = tmp_path / "step-00000001"
    old.mkdir()
    (old / "rank-00000.json").write_text(json.dumps({"rank-00000.safetensors": {"bytes": 1, "sha256": "0"}}))
    with CheckpointWriter(tmp_path, CPU, Policy(last=1)) as saving:
        saving.save(TrainState(step=2), {"master|w|0": torch.ones(10)})
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("step")] == ["step-00000002"]


def test_trouble_on_one_rank_is_one_line_on_all_and_the_checkpoint_before_stands(tmp_path):
    command = [sys.executable, "-m", "tests.training.saving", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command,
            env={**runs.environment(), "RANK": str(rank), "WORLD_SIZE": "2"},
            cwd=runs.REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=100) for process in ranks]
    assert [p.returncode for p in ranks] == [0, 0], printed
    found, other = (json.loads(out) for out, _ in printed)
    assert found == other  # both ranks say the same
    root = tmp_path / "checkpoints"
    assert found["good"] is None
    assert found["a full disk on one rank"] == (
        f"{root}/step-00000002: the checkpoint could not be written: rank 1: [Errno 27] File too large; "
        "the one before stands"
    )
    assert found["no room"] == (
        f"{root}/step-00000003: the checkpoint was not written: it needs 2.0 MiB, 1.0 MiB are free; "
        "free some space, or lower keep_checkpoints"
    )
    assert found["no folder"] == (
        f"{tmp_path}/file/checkpoints/step-00000004: the checkpoint was not written: "
        f"{tmp_path}/file/checkpoints: Not a directory"
    )
    assert found["good again"] is None
    assert [p.name for p in checkpoint.committed(root)] == ["step-00000005", "step-00000001"]
    assert not (root / "step-00000002").exists()
    assert not (root / "step-00000003").exists()
    assert "run.lock: held by another process" in found["a second run"]
    assert found["a run after it"] is None
    newest = checkpoint.Checkpoint(root / "step-00000005")
    assert newest.read("w", 2**18 - 2, 4, "master").tolist() == [5.0] * 4  # across both ranks' files


@pytest.mark.gpu
def test_a_snapshot_from_a_device_is_of_the_moment_it_was_taken(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    snapshot = Snapshot(device)
    weights = torch.zeros(50_000_000, device=device)
    for step in range(3):
        weights.add_(1.0)
        snapshot.plan({"master|w|0": weights})
        snapshot.take({"master|w|0": weights})
        snapshot.hold_back()
        weights.add_(100.0)  # the step behind it
        _, values = snapshot.content()
        found = torch.frombuffer(values, dtype=torch.float32)
        assert torch.equal(found, torch.full_like(found, step * 101 + 1.0))
