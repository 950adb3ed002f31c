"""From the folders of nodes to points: what is read, what stays unknown, and studies joined."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from adit_scale.data.config import DataConfig
from adit_scale.errors import DataError
from adit_scale.jobs.node import running_lock
from adit_scale.jobs.points import collect
from adit_scale.models.ladder import LADDER, denoiser_parameters
from adit_scale.scaling import costs
from adit_scale.scaling.points import epoch_contents
from adit_scale.scaling.study_data import Point, load_points, save_points
from tests.jobs.study_folders import Folders, data_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return data_set(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture
def folders(tmp_path: Path, data: DataConfig) -> Folders:
    return Folders(tmp_path / "runs", "first", data)


def one_point(folders: Folders) -> Point:
    folders.report()
    [point] = collect([folders.folder]).points
    return point


def test_a_finished_point_has_every_field(folders: Folders, data: DataConfig):
    config = folders.config(lr=2e-3)
    folders.add("dit_32", config)
    point = one_point(folders)
    assert (point.label, point.size, point.study) == ("dit_32", "dit_32", "first")
    assert point.n_parameters == denoiser_parameters(LADDER["dit_32"])
    assert (point.atoms_seen, point.sets_seen, point.flops, point.flops_total) == (640, 200, 2e7, 6e7)
    assert (point.status, point.note, point.final_loss, point.train_loss) == ("done", "", 1.5, 1.0)
    assert (point.constant_loss, point.domain_losses) == (9.0, {"molecule": 1.0, "crystal": 2.0})
    assert point.curve.steps == [10, 20]
    assert point.curve.atoms == [320, 640]
    assert point.curve.train == [3.0, (20 / 15 + 1) / 2]  # of the lines since the validation before
    assert point.curve.domain == {"molecule": [2.0, 1.0], "crystal": [4.0, 2.0]}
    assert point.training_rates == {"crystal/validity": [[320.0, 0.5, 0.4, 0.6]]}
    assert point.rates["crystal/validity"].value == 0.75
    assert (point.lr, point.schedule, point.parametrization) == (2e-3, "constant", "standard")
    assert (point.precision, point.steps, point.axes) == ("bf16", 20, {"model/denoiser": "dit_32"})
    assert point.run == "id of first diffusion dit_32"
    assert (point.autoencoder_id, point.data_fingerprint) == ("id of first autoencoder ", "f00d")
    assert point.autoencoder["width"] == config.model.autoencoder.width
    assert (point.sampling_steps, point.guidance, point.solver) == (config.sampling.steps, 2.0, "euler")
    assert point.leakage == {"crystal": 1 / 40}
    assert len(point.validation_grid) == 12


def test_what_was_seen_is_told_apart_by_domain(folders: Folders, data: DataConfig):
    folders.add("dit_32", folders.config(repeat={"mols": 2.0}))
    point = one_point(folders)
    contents = epoch_contents(replace(data, repeat={"mols": 2.0}))
    n = {name: contents.stored[size] for name, size in (("molecule", 4), ("crystal", 2))}
    sets = 2 * n["molecule"] + n["crystal"]
    assert point.epochs == pytest.approx(200 / sets)
    assert point.domain == ""
    assert point.domain_sets == pytest.approx(
        {"crystal": 200 * n["crystal"] / sets, "molecule": 400 * n["molecule"] / sets}
    )
    assert point.domain_atoms["molecule"] == pytest.approx(4 * point.domain_sets["molecule"])
    assert point.unique_atoms == 4 * n["molecule"] + 2 * n["crystal"]


@pytest.mark.parametrize(
    "settings", [{"domain": "crystal", "domain_match": "samples"}, {"repeat": {"mols": 0.0}}]
)
def test_a_run_of_one_domain_says_so(folders: Folders, settings: dict):
    folders.add("dit_32", folders.config(**settings))
    point = one_point(folders)
    assert point.domain == "crystal"
    assert point.domain_match == settings.get("domain_match", "")
    assert point.domain_sets == {"crystal": 200}
    assert point.domain_atoms == {"crystal": 400}


def test_used_and_planned_hours_and_restarts(folders: Folders, data: DataConfig):
    """The killed attempt counts up to the last record before the next one began."""
    config = folders.config()
    folders.add("dit_32", config)
    point = one_point(folders)
    assert point.gpu_hours == pytest.approx(2 * ((1010.5 - 1000) + (1049 - 1013)) / 3600)
    assert point.restarts == 1
    flops = costs.diffusion_flops(config, epoch_contents(data))[1]
    assert point.planned_gpu_hours == pytest.approx(flops / (0.4 * 989.4e12) / 3600)
    assert (point.atoms_per_s, point.mfu, point.devices) == (1250.0, 0.3, "2 x NVIDIA H200")


def test_hours_planned_for_another_device_are_not_set_against_those_of_the_run(folders: Folders):
    config = folders.config()
    config.budget.gpu = "a100"
    folders.add("dit_32", config)
    assert math.isnan(one_point(folders).planned_gpu_hours)


def test_shared_work_counts_once(folders: Folders):
    for label in ("a", "b"):
        folders.add(label, folders.config())
    folders.report()
    shared = collect([folders.folder]).shared
    assert shared["autoencoder"].rank_hours == pytest.approx(7 / 3600)  # DONE.json's: no launcher began it
    assert shared["evaluation"].rank_hours == pytest.approx(14 / 3600)


def test_a_stopped_run_is_not_running(folders: Folders):
    run = folders.add("dit_32", folders.config(), done=False)
    (run / "checkpoints" / "step-00000010").mkdir(parents=True)
    (run / "checkpoints" / "step-00000010" / "COMMITTED").touch()
    point = one_point(folders)
    assert (point.status, point.note) == ("unfinished", "stopped at step 10 of 20")
    assert math.isnan(point.final_loss)
    assert point.curve.loss[-1] == 3.0
    with running_lock(run):
        assert one_point(folders).status == "running"


def test_why_a_run_did_not_end_or_begin(folders: Folders):
    run = folders.add("dit_32", folders.config(), done=False)
    (run / "FAILED.json").write_text(json.dumps({"reason": "3 steps had non-finite gradients"}))
    assert (one_point(folders).status, one_point(folders).note) == (
        "diverged", "3 steps had non-finite gradients",
    )  # fmt: skip
    (run / "FAILED.json").write_text(json.dumps({"reason": "disk full"}))
    assert one_point(folders).status == "failed"
    (run / "FAILED.json").unlink()
    (run / "journal.jsonl").unlink()
    assert (one_point(folders).status, one_point(folders).note) == ("missing", "did not run")
    (folders.autoencoder / "FAILED.json").write_text(json.dumps({"reason": "no memory"}))
    assert one_point(folders).note == f"did not run: {folders.autoencoder.name} failed (no memory)"


def test_a_study_of_losses_alone_has_no_evaluations(folders: Folders):
    folders.add("dit_32", folders.config(), scored=False)
    point = one_point(folders)
    assert (point.status, point.note, point.rates) == ("done", "", {})
    assert (point.sampling_steps, point.solver) == (0, "")


def test_an_unscored_point_is_done_with_a_note(folders: Folders):
    folders.add("dit_32", folders.config())
    (folders.inputs["evaluation/dit_32"] / "DONE.json").unlink()
    assert one_point(folders).note == "not scored: its evaluation did not run"


def test_folders_of_an_earlier_version(folders: Folders):
    """No attempts, no leakage, no axes: unknown, and no error."""
    run = folders.add("dit_32", folders.config())
    (run / "attempts.jsonl").unlink()
    shutil.rmtree(run / "scoring")
    folders.axes.clear()
    done = folders.reference / "DONE.json"
    record = json.loads(done.read_text())
    del record["leakage"]
    done.write_text(json.dumps(record))
    point = one_point(folders)
    assert point.leakage == {}
    assert point.training_rates == {}
    assert point.axes == {"model/denoiser": "dit_32"}
    assert (point.gpu_hours, point.restarts) == (pytest.approx(2 * 7 / 3600), 0)


def test_a_study_copied_to_another_machine(folders: Folders, tmp_path: Path):
    """Its places are gone, and so are the shards: what they would tell stays unknown."""
    folders.add("dit_32", folders.config(shards=str(tmp_path / "gone")))
    folders.report()
    elsewhere = tmp_path / "laptop" / "first"
    elsewhere.parent.mkdir()
    shutil.move(folders.folder, elsewhere)
    [point] = collect([elsewhere]).points
    assert (point.status, point.final_loss, point.data_fingerprint) == ("done", 1.5, "f00d")
    assert math.isnan(point.epochs)
    assert math.isnan(point.planned_gpu_hours)
    assert point.domain_atoms == {}


def test_points_survive_json(folders: Folders, tmp_path: Path):
    folders.add("dit_32", folders.config())
    folders.add("dit_64", folders.config("dit_64"), done=False)
    folders.report()
    points = collect([folders.folder]).points
    save_points(points, tmp_path / "points.json")
    assert load_points(tmp_path / "points.json") == points


def test_two_studies_join_and_what_they_share_counts_once(tmp_path: Path, data: DataConfig):
    first, second = (Folders(tmp_path / "runs", name, data) for name in ("first", "second"))
    first.add("dit_32", first.config())
    second.inputs = dict(first.inputs)  # taken from there
    second.axes = dict(first.axes)
    second.add("dit_64", second.config("dit_64"))
    first.add("dit_64", first.config("dit_64", lr=3e-3))
    for study in (first, second):
        study.report()
    found = collect([first.folder, second.folder])
    assert [p.label for p in found.points] == ["dit_32", "dit_64", "second/dit_64"]
    assert found.total_points == 3
    assert found.studies == ["first", "second"]
    assert found.sweep.name == "first + second"
    assert found.sweep.hypothesis == "first: of first second: of second"
    assert set(found.evaluations) == {"dit_32", "dit_64", "second/dit_64"}


def test_a_folder_without_a_study_is_one_line(tmp_path: Path):
    with pytest.raises(DataError, match=f"{tmp_path}: no study there"):
        collect([tmp_path])
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(DataError, match=r"not as launch\.py writes it"):
        collect([tmp_path])
