"""`adit sample`: the same samples however many draw them and whatever stops them; mistakes in a line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import adit_scale
from adit_scale import config as settings
from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.cli import main as adit
from adit_scale.data.loader import size_histogram
from adit_scale.data.manifest import open_manifest
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.evaluation import sample_files
from adit_scale.evaluation.samples import SampleFolder, read_samples
from adit_scale.jobs import sample_processes, sample_words
from adit_scale.jobs.node import NodeFolder
from adit_scale.jobs.sample_model import open_model
from adit_scale.jobs.sampling import Ranks, make_order
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.dit import Denoiser
from adit_scale.training import pretrained, weights
from tests.training import runs

SAMPLING = SamplingConfig(steps=3, batch_atoms=40, precision="fp32", guidance_scale=1.5)
SIZES = [0, 2, 5, 9, 6, 3]  # training sets of 0, 1, 2 ... atoms


def networks(config) -> tuple[Autoencoder, Denoiser]:
    """Untrained networks whose crystals mostly have cells that close."""
    torch.manual_seed(0)
    autoencoder, denoiser = Autoencoder(config.autoencoder), Denoiser(config.denoiser)
    for parameter in denoiser.parameters():  # adaLN-Zero starts as a constant
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        autoencoder.decoder.norm.bias.fill_(1.0)
        autoencoder.lattice_head.weight[:3] = 4.0 / config.autoencoder.width
        autoencoder.lattice_head.weight[3:] = 1.6 / config.autoencoder.width
    return autoencoder.eval(), denoiser.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a diffusion run as `adit train` leaves it, its networks untrained."""
    root = tmp_path_factory.mktemp("study")
    config = replace(runs.small_study(runs.small_data(root / "shards")), sampling=SAMPLING)
    autoencoder, denoiser = networks(config.model)
    for kind, network, inputs in (
        ("autoencoder", autoencoder, {}),
        ("diffusion", denoiser, {"autoencoder": root / "autoencoder-1"}),
    ):
        folder = root / f"{kind}-1"
        folder.mkdir()
        settings.save(config, folder / "config.yaml")
        NodeFolder(folder, kind, "1", "small", "", inputs).save()
        weights.save(folder / "weights", network.config, network.state_dict())
    return root / "diffusion-1"


@pytest.fixture(scope="module")
def export(run, tmp_path_factory) -> Path:
    """The same pair as an exported model whose data held molecules alone."""
    folder = tmp_path_factory.mktemp("export") / "model"
    folder.mkdir()
    model = open_model(run)
    shapes = {"autoencoder": asdict(model.autoencoder.config), "denoiser": asdict(model.denoiser.config)}
    for name, network in (("autoencoder", model.autoencoder), ("denoiser", model.denoiser)):
        weights.save_file(network.state_dict(), folder / pretrained.weights_file(name))
    config = {
        "pretrained_version": pretrained.FORMAT_VERSION,
        "networks": shapes,
        "weights_sha256": dict(model.digests),
        "sampling": {"steps": 3, "guidance_scale": 1.5, "seed": 0, "batch_atoms": 40, "precision": "fp32"},
        "data": {"sizes": {"molecule": SIZES, "crystal": [0]}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sample(*words: object) -> int:
    return adit(["sample", *map(str, words)])


def digest(folder: Path) -> str:
    return json.loads((folder / "DONE.json").read_text())["digest"]


def draw(run: Path, out: Path, world_size: int = 1, n: int = 25, **changes) -> SampleFolder:
    """All ranks of a world, one after the other, the last first."""
    model = open_model(run)
    sampling = replace(model.sampling, **changes)
    order = make_order(model, {CRYSTAL: n, MOLECULE: n}, sampling, torch.device("cpu"))
    folder = order.folder(out)
    for rank in reversed(range(world_size)):
        order.draw(folder, Ranks(rank, world_size))
    return folder


def test_world_sizes_give_the_same_bits_and_capacities_the_same_numbers(run, tmp_path):
    alone = draw(run, tmp_path / "1").columns()
    for world_size in (2, 3):
        other = draw(run, tmp_path / str(world_size), world_size).columns()
        for domain, columns in alone.items():
            for name, values in columns.arrays().items():
                np.testing.assert_array_equal(other[domain].arrays()[name], values, err_msg=name)
    for name, changes in (
        ("a", {"batch_atoms": 64}),
        ("b", {"batch_sets": 3}),
        ("c", {"pad_batches": False}),
    ):
        other = draw(run, tmp_path / name, **changes).columns()
        for domain, columns in alone.items():
            for key in ("positions_t3", "fractional_t3", "lengths_s3", "angles_s3"):
                found, expected = getattr(other[domain], key), getattr(columns, key)
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(other[domain].numbers_t, columns.numbers_t)


def test_as_many_processes_as_there_is_work_for(monkeypatch):
    monkeypatch.setattr(sample_processes, "_cores", lambda: 4)
    usual = sample_processes.usual_processes
    assert [usual("cpu", n, 10**6) for n in (0, 31, 32, 1000)] == [1, 1, 2, 4]
    assert usual("cuda", 1000, 10**6) == usual("cpu", 1000, 10**9) == 1


def test_processes_draw_what_one_draws(run, tmp_path, capfd):
    assert sample(f"run={run}", f"out={tmp_path / 'one'}", "n=25", "formats=extxyz,shards") == 0
    assert sample(f"run={run}", f"out={tmp_path / 'two'}", "n=25", "processes=2") == 0
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    for name in ("crystals.extxyz", "molecules.extxyz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    said = capfd.readouterr().out
    assert said.startswith(
        f"25 crystals and 25 molecules of {run}: 3 steps of euler, uniform grid, guidance 1.5"
    )
    assert "shards: shards/manifest.json, " in said
    assert adit(["data", "info", str(tmp_path / "one" / "shards")]) == 0
    sizes = [len(one) for one in read_samples(tmp_path / "one")[CRYSTAL]]
    data = settings.load(run / "config.yaml").data
    histogram = size_histogram(open_manifest(data), CRYSTAL)
    assert all(histogram[n] for n in sizes)


def test_a_kill_loses_only_the_batch_it_hit(run, tmp_path):
    whole = draw(run, tmp_path / "whole", n=12, batch_atoms=12, steps=40)
    words = [f"run={run}", f"out={tmp_path / 'cut'}", "n=12", "batch_atoms=12", "steps=40"]
    program = "from adit_scale.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "sample", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
        while not (tmp_path / "cut" / "parts" / "000002.safetensors").is_file():
            assert child.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    cut = SampleFolder.open(tmp_path / "cut")
    there = sorted(set(range(cut.n_parts)) - set(cut.missing()))
    kept = {number: cut.part(number).stat().st_mtime_ns for number in there}
    assert 3 <= len(kept) < cut.n_parts
    assert sample(*words) == 0
    assert {number: cut.part(number).stat().st_mtime_ns for number in kept} == kept
    for domain, columns in whole.columns().items():
        for name, values in columns.arrays().items():
            np.testing.assert_array_equal(cut.columns()[domain].arrays()[name], values, err_msg=name)


def test_a_torn_part_is_drawn_anew_and_named(run, tmp_path, capsys):
    words = [f"run={run}", f"out={tmp_path / 's'}", "n=12"]
    assert sample(*words) == 0
    before = digest(tmp_path / "s")
    part = tmp_path / "s" / "parts" / "000001.safetensors"
    part.write_bytes(part.read_bytes()[:99])
    capsys.readouterr()
    assert sample(*words) == 0
    assert f"{part}: cannot be read" in capsys.readouterr().out
    assert digest(tmp_path / "s") == before


def test_ranks_of_a_launcher_share_the_work_and_the_last_finishes(run, tmp_path, capsys, monkeypatch):
    words = [f"run={run}", f"out={tmp_path / 's'}", "n=12"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert sample(*words) == 0
    assert "parts are left to other ranks" in capsys.readouterr().out
    assert not (tmp_path / "s" / "DONE.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert sample(*words) == 0
    assert digest(tmp_path / "s")
    assert sample(*words, "processes=2") == 2
    assert "processes=2 under a launcher that started 2 processes" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "2")
    assert sample(*words) == 2
    assert "RANK=2, WORLD_SIZE=2" in capsys.readouterr().err


def test_the_formats_of_the_words_are_those_that_can_be_written():
    assert sample_words.FORMATS == sample_files.FORMATS


def test_ranks_of_slurm_count_only_inside_a_step():
    assert Ranks.from_environment({}) == Ranks(0, 1)
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert Ranks.from_environment(batch) == Ranks(0, 1)
    step = {**batch, "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "1"}
    assert Ranks.from_environment(step) == Ranks(3, 4, 1)
    assert Ranks.from_environment({**step, "SLURM_STEP_NUM_TASKS": "8"}) == Ranks(3, 8, 1)


def test_a_process_that_fails_is_one_line_and_the_rest_is_kept(run, tmp_path, capfd, monkeypatch):
    words = [f"run={run}", f"out={tmp_path / 's'}", "n=12"]
    folder = draw(run, tmp_path / "s", n=12)
    folder.part(1).unlink()
    folder.part(1).mkdir()  # a part that cannot be written
    assert sample(*words, "processes=2") == 2
    error = capfd.readouterr().err
    assert error.count("error:") == 1
    assert "process 1 of 2: " in error
    assert "the same words go on with it" in error
    folder.part(1).rmdir()
    assert sample(*words) == 0


def test_a_network_of_nan_is_counted_not_crashed(run, tmp_path, capsys):
    sick = tmp_path / "diffusion-nan"
    shutil.copytree(run, sick)
    denoiser = weights.load_denoiser(run / "weights")
    torch.nn.init.constant_(denoiser.final.head.weight, torch.nan)
    weights.save(sick / "weights", denoiser.config, denoiser.state_dict())
    words = [f"run={sick}", f"out={tmp_path / 's'}", "n=7", "formats=extxyz,cif,cifs,sdf,shards"]
    assert sample(*words) == 0
    done = json.loads((tmp_path / "s" / "DONE.json").read_text())
    for domain in ("crystal", "molecule"):
        assert done["samples"][domain] == {
            "drawn": 7, "invalid": 7, "reasons": {"atom types are not finite": 7},
        }  # fmt: skip
    assert (tmp_path / "s" / "crystals.extxyz").read_text() == ""
    assert "7 are no system of atoms (atom types are not finite: 7)" in capsys.readouterr().out
    assert [one.reason for one in read_samples(tmp_path / "s")[MOLECULE]] == ["atom types are not finite"] * 7


def test_an_opened_model_draws_what_the_command_draws(export, tmp_path):
    assert sample(f"run={export}", f"out={tmp_path / 's'}", "n=20", "seed=5") == 0
    drawn = [one for one in read_samples(tmp_path / "s")[MOLECULE] if isinstance(one, AtomSet)]
    found = adit_scale.load_pretrained(export).sample(20, "molecule", seed=5)
    assert [one.id for one in found] == [one.id for one in drawn] == [f"molecule-{i}" for i in range(20)]
    for one, other in zip(found, drawn, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.numbers, other.numbers)


MISTAKES = [
    ("run={run}", "out is missing; expected out=FOLDER"),
    ("out={out}", "run is missing; expected run=FOLDER"),
    ("run={run} out={out} stps=4", "stps=4: no such word of adit sample; did you mean steps?"),
    ("run={run} out={out} four", "four: not key=value"),
    ("run={run} out={out} n=4 n=5", "n is said twice, 4 and 5"),
    ("run={run} out={out} n=0", "n is '0'; expected a whole number of at least 1"),
    ("run={run} out={out} domain=cristal", "domain is 'cristal'; did you mean crystal?"),
    ("run={run} out={out} formats=pdf", "formats has 'pdf'; did you mean sdf?"),
    ("run={run} out={out} steps=1", "steps is 1; expected at least 2"),
    ("run={run} out={out} solver=rk4", "solver is 'rk4'; expected one of euler, heun, midpoint"),
    ("run={run} out={out} guidance=nan", "guidance is nan; expected"),
    ("run={run} out={out} guidance_interval=0.5", "expected two times from 0 to 1, such as 0.1,0.9"),
    ("run={run} out={out} atoms=none", "atoms is none; expected 'data' or a number from 1 to"),
    ("run={run} out={out} spacegroup=225", "was trained without; set spacegroup=none"),
    ("run={run} out={out} device=cuda:9", "device=cuda:9: "),
    ("run={run} out={out} data={out}", "no manifest.json there"),
    ("run={run} out={out} autoencoder=nowhere", "its autoencoder is not at nowhere"),
    ("run={run}/weights out={out}", "is inside a run; expected the run's own folder"),
    ("run={run}/.. out={out}", "is a study of 1 diffusion runs; expected one of them, such as run="),
    ("run={run}/../autoencoder-1 out={out}", "holds a node of kind autoencoder; expected a diffusion run"),
    ("run={run}/../shards out={out}", "holds neither a diffusion run nor an exported model"),
    ("run=nowhere out={out}", "run=nowhere: no such folder"),
    ("run={run} out={run}", "holds config.yaml and no samples; expected a new folder"),
    ("run={export} out={out} domain=crystal", "hold no crystals; expected domain=molecule"),
    ("run={export} out={out} autoencoder=x", "holds its own; leave it out"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line(run, export, tmp_path, capsys, words, message):
    said = [word.format(run=run, out=tmp_path / "s", export=export) for word in words.split()]
    assert sample(*said) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "s" / "parts").exists()


def test_another_autoencoder_than_the_run_was_trained_on_is_other_samples(run, tmp_path, capsys):
    assert sample(f"run={run}", f"out={tmp_path / 's'}", "n=2") == 0
    other = tmp_path / "autoencoder-2"
    shutil.copytree(run.parent / "autoencoder-1", other)
    network = weights.load_autoencoder(other / "weights")
    with torch.no_grad():
        network.position_head.weight += 1
    weights.save(other / "weights", network.config, network.state_dict())
    assert sample(f"run={run}", f"out={tmp_path / 's'}", "n=2", f"autoencoder={other}") == 2
    error = capsys.readouterr().err
    assert "weights.autoencoder=" in error
    assert weights.digest(network.state_dict()) in error
