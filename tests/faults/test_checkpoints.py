"""A checkpoint that is damaged, cut short or another run's, and a rival in the folder: what a run does."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from adit_scale import config as settings
from adit_scale.tracking.journal import events, read_journal
from adit_scale.training import checkpoint
from adit_scale.training.checkpoint import PASSED_OVER, REJECTED, RESUME_EVENTS, step_folder
from adit_scale.training.exit_codes import EXIT_FAILED, EXIT_REQUEUE
from tests.faults.test_stopping import TRAIN, start, wait_for_step
from tests.faults.zygote import Zygote
from tests.training import runs
from tests.training.test_checkpoint import harm

FILES = ["rank-00000.safetensors", "rank-00001.safetensors", "state.json", "COMMITTED"]
HARMS = ["delete", "truncate", "flip"]


def deterministic_fields(folder: Path) -> list[tuple]:
    records = [(r["kind"], r["step"], r["values"]) for r in read_journal(folder)]
    return [r for r in records if r[2].get("event") not in RESUME_EVENTS]


def train(zygote: Zygote, *folders: Path, log: Path) -> int:
    ranks = zygote.start(TRAIN, *map(str, folders), world_size=2, log=log)
    codes = ranks.wait()
    assert len(set(codes)) == 1, log.read_text()[-3000:]
    return codes[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shards, zygote) -> Path:
    """A run of 10 steps on 2 ranks, with checkpoints at 4, 8 and 10."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = runs.small_study(shards, 10, world_size=2, zero_stage=2)
    config.autoencoder.keep_checkpoints = 3
    runs.prepare(folder, config, "autoencoder")
    assert train(zygote, folder, log=folder / "log.txt") == 0
    return folder


def cut_back(finished: Path, to: Path, newest: int) -> Path:
    """A copy of the run as it stood after the save of step ``newest``."""
    shutil.copytree(finished, to, ignore=shutil.ignore_patterns("weights", "heartbeat"))
    for folder in checkpoint.folders(to / "checkpoints"):
        if checkpoint.step_of(folder) > newest:
            shutil.rmtree(folder)
    return to


def test_each_file_deleted_truncated_or_flipped_makes_the_run_fall_back_and_end_the_same(
    finished, tmp_path, zygote
):
    harms = {f"{how}-{name}": (name, how) for name in FILES for how in HARMS}
    cases = {cut_back(finished, tmp_path / key, newest=8): case for key, case in harms.items()}
    for folder, (name, how) in cases.items():
        harm(step_folder(folder / "checkpoints", 8) / name, how)
    assert train(zygote, *cases, log=tmp_path / "log.txt") == 0
    for folder, (name, how) in cases.items():
        assert deterministic_fields(folder) == deterministic_fields(finished), folder.name
        for file in (finished / "weights").iterdir():
            assert (folder / "weights" / file.name).read_bytes() == file.read_bytes()
        records = read_journal(folder)
        event = PASSED_OVER if (how, name) == ("delete", "COMMITTED") else REJECTED
        (found,) = events(records, event)
        assert found["step"] == 4  # where the run took itself up
        damaged = step_folder(folder / "checkpoints", 8)
        assert str(damaged / name if event == REJECTED else damaged) in found["values"]["problem"]
        assert checkpoint.verify(step_folder(folder / "checkpoints", 8))  # written again
        assert found["values"]["problem"] in (tmp_path / "log.txt").read_text()


def test_with_every_checkpoint_damaged_the_run_refuses_and_touches_nothing(finished, tmp_path, zygote):
    folder = cut_back(finished, tmp_path / "run", newest=8)
    for step in (4, 8):
        harm(step_folder(folder / "checkpoints", step) / "rank-00001.safetensors", "flip")
    journal = (folder / "journal.jsonl").read_bytes()
    assert train(zygote, folder, log=tmp_path / "log.txt") == EXIT_FAILED
    assert "no committed checkpoint passes its check" in (tmp_path / "log.txt").read_text()
    assert "step-00000008/rank-00001.safetensors" in (tmp_path / "log.txt").read_text()
    assert (folder / "journal.jsonl").read_bytes() == journal
    assert len(checkpoint.committed(folder / "checkpoints")) == 2


def test_a_run_killed_in_its_first_save_starts_over_and_says_so(finished, tmp_path, zygote):
    folder = cut_back(finished, tmp_path / "run", newest=4)
    (step_folder(folder / "checkpoints", 4) / "COMMITTED").unlink()
    assert train(zygote, folder, log=tmp_path / "log.txt") == 0
    assert deterministic_fields(folder) == deterministic_fields(finished)
    (found,) = events(read_journal(folder), PASSED_OVER)
    assert found["step"] == 0
    assert "step-00000004: no COMMITTED marker" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: replace(c, seed=7), "seed was 0 and is 7 now; the order of the data would change"),
        (
            lambda c: replace(c, autoencoder=replace(c.autoencoder, atom_budget=90)),
            "autoencoder.atom_budget was 120 and is 90 now",
        ),
        (
            lambda c: replace(c, model=replace(c.model, autoencoder=replace(c.model.autoencoder, width=64))),
            "expected a checkpoint of the same model size",
        ),
    ],
)
def test_settings_that_do_not_fit_the_checkpoint_are_refused(finished, tmp_path, zygote, change, line):
    folder = cut_back(finished, tmp_path / "run", newest=8)
    config = change(settings.load(folder / "config.yaml"))
    settings.save(config, folder / "config.yaml")
    assert train(zygote, folder, log=tmp_path / "log.txt") == EXIT_FAILED
    assert line in (tmp_path / "log.txt").read_text()
    assert checkpoint.verify(step_folder(folder / "checkpoints", 8))


def test_a_change_of_the_rate_is_told_in_the_journal(finished, tmp_path, zygote):
    folder = cut_back(finished, tmp_path / "run", newest=8)
    config = settings.load(folder / "config.yaml")
    config.autoencoder.optim.lr = 2e-3
    settings.save(config, folder / "config.yaml")
    assert train(zygote, folder, log=tmp_path / "log.txt") == 0
    (found,) = events(read_journal(folder), "settings_changed")
    assert found["step"] == 8
    assert found["values"]["autoencoder.optim.lr"] == "0.001 -> 0.002"


def test_a_second_run_in_one_folder_is_refused_and_a_crash_frees_it(tmp_path, shards, zygote):
    folder = tmp_path / "run"
    first = start(zygote, folder, shards, world_size=1)
    wait_for_step(folder, 3, first)
    second = zygote.start(TRAIN, str(folder), world_size=1, log=tmp_path / "second.txt")
    assert second.wait() == [EXIT_FAILED]
    assert f"{folder}/run.lock: held by another process" in (tmp_path / "second.txt").read_text()
    wait_for_step(folder, read_journal(folder)[-1]["step"] + 2, first)  # it goes on unharmed
    first.kill_all()
    (folder / "journal.jsonl").unlink()
    third = start(zygote, folder, shards, world_size=1)
    wait_for_step(folder, 3, third)
    third.kill(0, signal.SIGTERM)
    assert third.wait() == [EXIT_REQUEUE]
    assert len(checkpoint.committed(folder / "checkpoints")) == 1
