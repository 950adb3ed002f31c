"""A checkpoint counts only when whole, and only for its own model, data and order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adit_scale.errors import CheckpointError
from adit_scale.training import checkpoint
from adit_scale.training.checkpoint import PASSED_OVER, REJECTED, Checkpoint, TrainState
from adit_scale.training.retention import Policy
from adit_scale.training.writer import CheckpointWriter

CONFIG = {
    "seed": 0,
    "parallel": {"precision": "bf16"},
    "data": {"repeat": {"a": 2}},
    "diffusion": {"atom_budget": 64, "steps": 10, "optim": {"lr": 1e-3}},
}
SHAPES = {"w": [2, 3], "b": [3]}
TENSORS = {
    "master|w|0": torch.arange(6.0),
    "master|b|0": torch.arange(3.0) + 10,
    "counter|loss|0": torch.tensor([1.5, 2.0], dtype=torch.float64),
}
FILES = ["rank-00000.safetensors", "state.json", "COMMITTED"]


def make(root: Path, *steps: int, background: bool = False) -> None:
    writer = CheckpointWriter(root, torch.device("cpu"), Policy(last=10), background)
    for step in steps:
        state = TrainState(step=step, shapes=SHAPES, fingerprint="a" * 64, config=CONFIG, stage="diffusion")
        writer.save(state, TENSORS)
    writer.wait()


@pytest.fixture
def root(tmp_path: Path, single_process) -> Path:
    make(tmp_path / "checkpoints", 4, 8)
    return tmp_path / "checkpoints"


def harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


@pytest.mark.parametrize("background", [False, True])
def test_reads_back_any_range(tmp_path, single_process, background):
    make(tmp_path, 4, 8, background=background)
    newest, problems = checkpoint.open_newest(tmp_path)
    assert problems == []
    assert newest is not None
    assert newest.state.step == 8
    assert newest.read("w", 2, 3, "master").tolist() == [2.0, 3.0, 4.0]
    assert newest.counters(0, 1)["loss"].tolist() == [1.5, 2.0]
    assert newest.counters(0, 2)["loss"].tolist() == [1.5, 2.0]
    assert newest.counters(1, 2)["loss"].tolist() == [0.0, 0.0]
    assert sorted(path.name for path in newest.folder.iterdir()) == sorted(FILES)


def test_a_part_that_is_missing_is_named(root):
    with pytest.raises(CheckpointError, match="ema of w covers 0 of 6 elements from 0"):
        Checkpoint(root / "step-00000008").read("w", 0, 6, "ema")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["delete", "truncate", "empty", "flip"])
def test_every_damaged_file_makes_resume_fall_back_and_is_named(root, name, how):
    path = root / "step-00000008" / name
    harm(path, how)
    found, problems = checkpoint.open_newest(root)
    assert found is not None
    assert found.state.step == 4
    ((event, text),) = problems
    assert event == (PASSED_OVER if (how, name) == ("delete", "COMMITTED") else REJECTED)
    assert str(path if event == REJECTED else path.parent) in text


@pytest.mark.parametrize("byte", range(0, 400, 23))
def test_no_bit_of_the_marker_can_flip_unseen(root, byte):
    path = root / "step-00000008" / "COMMITTED"
    data = bytearray(path.read_bytes())
    data[byte % len(data)] ^= 1
    path.write_bytes(data)
    found, problems = checkpoint.open_newest(root)
    assert found.state.step == 4
    assert str(path) in problems[0].text


def test_damage_everywhere_is_an_error_not_a_fresh_start(root):
    for folder in checkpoint.committed(root):
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"no committed checkpoint passes its check.*state\.json"):
        checkpoint.open_newest(root)


def test_a_killed_first_save_is_a_fresh_start_that_says_so(root):
    for folder in checkpoint.committed(root):
        (folder / "COMMITTED").unlink()
    found, problems = checkpoint.open_newest(root)
    assert found is None
    assert [p.event for p in problems] == [PASSED_OVER, PASSED_OVER]
    assert "step-00000008: no COMMITTED marker" in problems[0].text


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path):
    assert checkpoint.open_newest(tmp_path) == (None, [])


def test_another_model_or_data_set_is_refused(root):
    newest = Checkpoint(root / "step-00000008")
    newest.check_fits(newest.state)
    with pytest.raises(CheckpointError, match=r"parameter w has shape \(2, 3\) in the checkpoint, \(4, 3\)"):
        newest.check_model({"w": torch.Size([4, 3]), "b": torch.Size([3])})
    with pytest.raises(CheckpointError, match="parameter c has shape none in the checkpoint"):
        newest.check_model({"w": torch.Size([2, 3]), "b": torch.Size([3]), "c": torch.Size([1])})
    with pytest.raises(CheckpointError, match=r"trained in bf16, to be resumed in fp32.*precision=bf16"):
        newest.check_precision("fp32")
    with pytest.raises(CheckpointError, match="data set aaaaaaaaaaaaaaaa, but the shards given are bbbb"):
        newest.check_data("b" * 64)
    newest.state.autoencoder = "c" * 64
    with pytest.raises(CheckpointError, match="autoencoder cccccccccccccccc, to be resumed with dddd"):
        newest.check_autoencoder("d" * 64)


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("data.repeat", {"a": 3}), ("diffusion.atom_budget", 128)]
)
def test_another_order_of_the_data_is_refused(root, key, value):
    newest = Checkpoint(root / "step-00000008")
    config = json.loads(json.dumps(CONFIG))
    *above, last = key.split(".")
    inner = config
    for part in above:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(CheckpointError, match=f"{key} was .* and is .* now; the order of the data"):
        newest.check_order(config, "diffusion")


def test_settings_that_may_change_are_told(root):
    newest = Checkpoint(root / "step-00000008")
    config = {**CONFIG, "diffusion": {"atom_budget": 64, "steps": 12, "optim": {"lr": 2e-3}}}
    assert newest.changed_settings(config, "diffusion") == {
        "diffusion.steps": "10 -> 12",
        "diffusion.optim.lr": "0.001 -> 0.002",
    }


def test_a_state_of_another_version_is_refused_by_name(root):
    path = root / "step-00000008" / "state.json"
    record = json.loads(path.read_text())
    for change, found in (({"format_version": 7}, "format version 7"), ({"moon": 1}, "unknown field 'moon'")):
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(CheckpointError, match=rf"state\.json: {found}, expected format version 1"):
            checkpoint.read_state(path.parent)
