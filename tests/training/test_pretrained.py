"""A model that is given away draws what the training process draws; `adit checkpoint` says what there is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import adit_scale
from adit_scale.cli import main as adit
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.training import checkpoint
from tests.training import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards, autoencoder) -> Path:
    """A finished diffusion run of 12 steps with what it drew at the last; checkpoints at 4, 8 and 12."""
    config = runs.small_study(shards, 12)
    optim = replace(config.diffusion.optim, schedule="wsd", decay_fraction=0.5)
    config.diffusion = replace(
        config.diffusion,
        optim=optim,
        samples_every_steps=12,
        validate_every_steps=4,
        keep_best="validation/loss",
    )
    config.sampling = replace(config.sampling, steps=4)
    folder = runs.prepare(tmp_path_factory.mktemp("runs") / "small", config, "diffusion")
    child("train", folder, autoencoder)
    return folder


@pytest.fixture(scope="module")
def exported(run, autoencoder, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("exports") / "model"
    assert adit(["checkpoint", "export", str(run), "--to", str(to), "--autoencoder", str(autoencoder)]) == 0
    return to


def child(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.sampling_run", *map(str, words)],
        env=runs.environment(),
        cwd=runs.REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def test_an_export_draws_the_samples_of_the_training_process_bit_for_bit(run, exported, tmp_path):
    child("open", exported, tmp_path / "drawn.npz")
    expected, found = np.load(run / "drawn.npz"), np.load(tmp_path / "drawn.npz")
    assert len(expected.files) >= 3 * 6  # at least half of the samples are systems of atoms
    assert sorted(found.files) == sorted(expected.files)
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name])


def test_an_export_holds_the_averaged_weights_its_card_and_where_it_comes_from(run, exported, autoencoder):
    assert sorted(p.name for p in exported.iterdir()) == [
        "README.md", "autoencoder.safetensors", "config.json", "denoiser.safetensors",
    ]  # fmt: skip
    trained = load_file(run / "weights" / "weights.safetensors")
    found = load_file(exported / "denoiser.safetensors")
    assert sorted(found) == sorted(trained)
    assert all(torch.equal(found[name], trained[name]) for name in trained)
    config = json.loads((exported / "config.json").read_text())
    state = checkpoint.read_state(run / "checkpoints" / "step-00000012")
    assert config["data"]["fingerprint"] == state.fingerprint
    assert config["weights_sha256"]["autoencoder"] == state.autoencoder
    assert config["trained"]["atoms_seen"] == state.atoms_seen
    assert config["trained"]["losses"]["validation/loss"] == state.validation["loss"]
    card = (exported / "README.md").read_text()
    assert f"Fingerprint `{state.fingerprint}`" in card
    assert "| molecules |" in card
    assert f"| validation/loss | {state.validation['loss']:.5g} |" in card
    assert 'adit_scale.load_pretrained("model")' in card


def test_the_last_weights_can_be_exported_instead(run, autoencoder, tmp_path):
    words = ["--what", "weights", "--autoencoder", str(autoencoder), "--to", str(tmp_path / "x")]
    step = run / "checkpoints" / "step-00000008"
    assert adit(["checkpoint", "export", str(step), *words]) == 0
    saved = checkpoint.Checkpoint(step)
    found = load_file(tmp_path / "x" / "denoiser.safetensors")
    for name, value in found.items():
        master = saved.read(f"network.{name}", 0, value.numel(), "master")
        assert torch.equal(value.view(-1), master)


def test_an_autoencoder_run_is_exported_alone(autoencoder, tmp_path):
    assert adit(["checkpoint", "export", str(autoencoder.parent), "--to", str(tmp_path / "x")]) == 0
    model = adit_scale.load_pretrained(tmp_path / "x")
    expected = load_file(autoencoder / "weights.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in model.autoencoder.state_dict().items())
    with pytest.raises(ConfigError, match="holds an autoencoder alone"):
        model.sample(1, "crystal")


def test_the_wrong_autoencoder_and_a_full_folder_are_refused(run, autoencoder, shards, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for file in autoencoder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import save_file

    state = load_file(autoencoder / "weights.safetensors")
    name = next(iter(state))
    state[name] = state[name] + 1
    save_file(state, other / "weights.safetensors")
    words = ["checkpoint", "export", str(run), "--to", str(tmp_path / "x")]
    assert adit([*words, "--autoencoder", str(other)]) == 2
    assert "the run was trained on the latents of" in capsys.readouterr().err
    assert adit(words) == 2
    assert "give its weights folder with --autoencoder" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert (
        adit(["checkpoint", "export", str(run), "--to", str(other), "--autoencoder", str(autoencoder)]) == 2
    )
    assert f"error: {other}: not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("denoiser.safetensors", "its weights have digest"),
        ("config.json", "config.json: missing"),
        ("autoencoder.safetensors", "cannot be read as safetensors"),
    ],
)
def test_a_damaged_export_is_refused_by_name(exported, tmp_path, name, found):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if name == "denoiser.safetensors":
        data = bytearray((tmp_path / name).read_bytes())
        data[-2] ^= 1
        (tmp_path / name).write_bytes(data)
    else:
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=found) as error:
        adit_scale.load_pretrained(tmp_path)
    assert name in str(error.value)


def test_a_sample_of_nothing_known_is_refused(exported):
    model = adit_scale.load_pretrained(exported)
    with pytest.raises(ConfigError, match="domain is 'alloy'; expected one of crystal, molecule"):
        model.sample(1, "alloy")
    with pytest.raises(ConfigError, match="colour: no such setting of sampling"):
        model.sample(1, "crystal", colour="red")


def test_ls_and_verify_tell_what_there_is(run, capsys, tmp_path):
    assert adit(["checkpoint", "ls", str(run)]) == 0
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header[0] == "step"
    assert [row[0] for row in rows] == ["6", "8", "12"]  # the decay's start, and the last two
    assert "decay_start" in rows[0]
    assert all("yes" in row for row in rows)
    loss = checkpoint.read_state(run / "checkpoints" / "step-00000012").validation["loss"]
    assert rows[2][-1] == f"{loss:.5g}"

    assert adit(["checkpoint", "verify", str(run)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "step-00000006", "step-00000008", "step-00000012",
    ]  # fmt: skip
    copy = tmp_path / "checkpoints" / "step-00000006"
    copy.mkdir(parents=True)
    for file in (run / "checkpoints" / "step-00000006").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "state.json").write_text("{}")
    assert adit(["checkpoint", "verify", str(tmp_path)]) == 1
    assert f"damaged: {copy}/state.json: 2 bytes" in capsys.readouterr().err
    (copy / "COMMITTED").unlink()
    assert adit(["checkpoint", "verify", str(tmp_path)]) == 0
    assert "no marker, its save was cut short" in capsys.readouterr().out
    assert adit(["checkpoint", "ls", str(tmp_path / "nowhere")]) == 2
    assert "nowhere/checkpoints: no such folder" in capsys.readouterr().err
