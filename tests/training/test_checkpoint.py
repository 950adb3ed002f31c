"""A checkpoint counts only when whole, and only for its own model and data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adit_scale.errors import CheckpointError
from adit_scale.training import checkpoint
from adit_scale.training.checkpoint import Checkpoint, TrainState

CONFIG = {"parallel": {"precision": "bf16"}}
SHAPES = {"w": [2, 3], "b": [3]}
TENSORS = {
    "master|w|0": torch.arange(6.0),
    "master|b|0": torch.arange(3.0) + 10,
    "counter|loss|0": torch.tensor([1.5, 2.0], dtype=torch.float64),
}


@pytest.fixture
def root(tmp_path: Path, single_process) -> Path:
    for step in (4, 8):
        state = TrainState(step=step, shapes=SHAPES, fingerprint="a" * 64, config=CONFIG)
        checkpoint.save(tmp_path / "checkpoints", state, TENSORS)
    return tmp_path / "checkpoints"


def test_reads_back_any_range(root):
    newest, problems = checkpoint.open_newest(root)
    assert problems == []
    assert newest is not None
    assert newest.state.step == 8
    assert newest.read("w", 2, 3, "master").tolist() == [2.0, 3.0, 4.0]
    assert newest.counters(0, 1)["loss"].tolist() == [1.5, 2.0]
    assert newest.counters(0, 2)["loss"].tolist() == [1.5, 2.0]
    assert newest.counters(1, 2)["loss"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "state.json", "COMMITTED"])
@pytest.mark.parametrize("harm", ["delete", "truncate", "flip"])
def test_every_damaged_file_makes_resume_fall_back(root, name, harm):
    path = root / "step-00000008" / name
    data = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    found, problems = checkpoint.open_newest(root)
    assert found is not None
    assert found.state.step == 4
    if (harm, name) != ("delete", "COMMITTED"):  # without its marker it never counted
        assert len(problems) == 1
        assert "step-00000008" in problems[0]


def test_damage_everywhere_is_an_error_not_a_fresh_start(root):
    for folder in checkpoint.committed(root):
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"no committed checkpoint passes its check.*state\.json"):
        checkpoint.open_newest(root)


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path):
    assert checkpoint.open_newest(tmp_path) == (None, [])


def test_another_model_or_data_set_is_refused(root):
    newest = Checkpoint(root / "step-00000008")
    newest.check_model({"w": torch.Size([2, 3]), "b": torch.Size([3])})
    with pytest.raises(CheckpointError, match=r"parameter w has shape \(2, 3\) in the checkpoint, \(4, 3\)"):
        newest.check_model({"w": torch.Size([4, 3]), "b": torch.Size([3])})
    with pytest.raises(CheckpointError, match="parameter c has shape none in the checkpoint"):
        newest.check_model({"w": torch.Size([2, 3]), "b": torch.Size([3]), "c": torch.Size([1])})
    newest.check_precision("bf16")
    with pytest.raises(CheckpointError, match=r"trained in bf16, to be resumed in fp32.*precision=bf16"):
        newest.check_precision("fp32")
    with pytest.raises(CheckpointError, match="data set aaaaaaaaaaaaaaaa, but the shards given are bbbb"):
        newest.check_data("b" * 64)


def test_prune_keeps_the_newest(root):
    checkpoint.prune(root, keep=1)
    assert [p.name for p in checkpoint.committed(root)] == ["step-00000008"]
    assert not (root / "step-00000004").exists()
