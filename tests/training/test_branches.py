"""Decay branches: they are the end of the wsd run of their length, and the trunk does not change them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adit_scale import cli
from adit_scale import config as settings
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.jobs.node import NodeFolder
from adit_scale.tracking.journal import events, read_journal, series
from adit_scale.training import branches, checkpoint
from adit_scale.training.branches import plan_branch
from adit_scale.training.config import OptimConfig
from tests.training import runs
from tests.training.test_resume import deterministic_fields, start, wait_for_step, weights_bytes

STEPS, DECAY_FROM = 24, 18  # of the wsd run
BRANCH_STEPS = [6, 18]


def settings_of(shards: Path, schedule: str, steps: int = STEPS, **parallel):
    config = runs.small_study(shards, steps, **parallel)
    config.diffusion.optim = OptimConfig(lr=1e-2, warmup_steps=3, schedule=schedule, decay_fraction=0.25)
    config.diffusion.keep_checkpoints = 1
    return config


@pytest.fixture(scope="module")
def trunk(tmp_path_factory, shards, autoencoder) -> Path:
    """A run of constant rate to step 30 that keeps two checkpoints for branches, and a plain wsd run."""
    root = tmp_path_factory.mktemp("branches")
    config = settings_of(shards, "constant", 30)
    config.diffusion.branch_steps = BRANCH_STEPS
    plain = settings_of(shards, "wsd")
    runs.run(
        [runs.prepare(root / "trunk", config, "diffusion"), runs.prepare(root / "wsd", plain, "diffusion")],
        1,
        autoencoder,
    )
    return root / "trunk"


@pytest.fixture(scope="module")
def branched(trunk: Path, autoencoder: Path) -> dict[int, Path]:
    folders = {}
    for step, steps in zip(BRANCH_STEPS, ("+10", ""), strict=True):
        start_from = checkpoint.step_folder(trunk / "checkpoints", step)
        config = plan_branch(start_from, steps).config
        folders[step] = runs.prepare(trunk.parent / f"branch-{step}", config, "diffusion", start_from)
    runs.run(list(folders.values()), 1, autoencoder)
    return folders


def test_the_trunk_keeps_what_branches_start_from(trunk):
    kept = {
        checkpoint.step_of(f): checkpoint.read_state(f) for f in checkpoint.committed(trunk / "checkpoints")
    }
    assert sorted(kept) == [6, 18, 30]
    assert [kept[step].tags for step in (6, 18, 30)] == [["branch"], ["branch"], []]


def test_a_branch_of_a_wsd_runs_length_is_that_runs_end(trunk, branched):
    whole, branch = trunk.parent / "wsd", branched[DECAY_FROM]
    assert settings.load(branch / "config.yaml").diffusion.steps == STEPS  # of its decay fraction
    assert weights_bytes(branch) == weights_bytes(whole)
    for key in ("train/loss", "train/lr", "train/flops_cum", "validation/loss"):
        steps, values = series(read_journal(branch), key)
        assert min(steps) == DECAY_FROM + 1 if key.startswith("train") else steps == [20, 24]
        wanted = dict(zip(*series(read_journal(whole), key), strict=True))
        assert values == [wanted[step] for step in steps], key


def test_the_journal_says_where_a_branch_comes_from(trunk, branched):
    records = read_journal(branched[6])
    assert records[0]["kind"] == "event"
    (event,) = events(records, branches.EVENT)
    start_from = checkpoint.step_folder(trunk / "checkpoints", 6)
    assert event["step"] == 6
    assert event["values"] == {
        "event": "branch",
        "trunk": str(start_from),
        "trunk_step": 6,
        "digest": branches.digest(start_from),
        "steps": 16,
    }


def test_the_rate_falls_to_its_end(branched):
    steps, rates = series(read_journal(branched[6]), "train/lr")
    assert steps == list(range(7, 17))
    assert rates == pytest.approx([1e-2 * (16 - step) / 10 for step in range(6, 16)])


@pytest.mark.parametrize("world_size", [2])
def test_a_killed_branch_goes_on_in_its_own_folder(tmp_path, trunk, autoencoder, world_size):
    """From its own checkpoint even when the trunk is gone; before its first one, from the trunk again."""
    start_from = checkpoint.step_folder(trunk / "checkpoints", 6)
    config = plan_branch(start_from, "+14").config
    config.parallel.world_size, config.diffusion.checkpoint_every_steps = world_size, 5
    whole = runs.prepare(tmp_path / "whole", config, "diffusion", start_from)
    killed = runs.prepare(tmp_path / "killed", config, "diffusion", start_from)
    runs.run([whole], world_size, autoencoder)
    for step in (7, 16):  # the save of step 15 has waited for that of step 10
        process = start(killed, world_size, autoencoder)
        wait_for_step(killed, step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert checkpoint.committed(killed / "checkpoints")
    (killed / "start_from.txt").write_text(str(tmp_path / "gone"))
    runs.run([killed], world_size, autoencoder)
    assert weights_bytes(killed) == weights_bytes(whole)
    assert deterministic_fields(killed) == deterministic_fields(whole)


def test_what_cannot_be_branched_is_refused_in_one_line(tmp_path, trunk, branched, autoencoder):
    first = checkpoint.step_folder(trunk / "checkpoints", 6)
    with pytest.raises(CheckpointError, match="not a committed checkpoint; expected RUN/checkpoints/step"):
        plan_branch(trunk)
    for steps, says in (("6", "more than the trunk's 6"), ("soon", "steps is 'soon'"), ("+0", "more than")):
        with pytest.raises(ConfigError, match=says):
            plan_branch(first, steps)
    (end,) = checkpoint.committed(branched[6] / "checkpoints")[:1]
    with pytest.raises(
        ConfigError, match="has schedule 'decay'; a decay branch starts where the rate is const"
    ):
        plan_branch(end, "+5")
    (end,) = checkpoint.committed(trunk.parent / "wsd" / "checkpoints")[:1]
    with pytest.raises(ConfigError, match="decays from step 18 on"):
        plan_branch(end, "+5")


def test_another_checkpoint_than_planned_is_refused(tmp_path, trunk, single_process):
    first, second = (checkpoint.step_folder(trunk / "checkpoints", step) for step in BRANCH_STEPS)
    planned = plan_branch(first, "+5").config
    with pytest.raises(CheckpointError, match=r"expected the checkpoint that the branch was planned from"):
        branches.open_trunk(second, planned.diffusion, 0, 1)
    other = plan_branch(second, "+5").config
    saved = checkpoint.Checkpoint(first)
    with pytest.raises(CheckpointError, match="belongs to a run that is no branch, the settings to a branch"):
        branches.check_same_trunk(saved, other.diffusion)


def adit_train(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from adit_scale.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "train", *words],
        env=runs.environment(),
        cwd=runs.REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_makes_a_branch_beside_its_trunk(trunk, branched, autoencoder):
    start_from = checkpoint.step_folder(trunk / "checkpoints", 6)
    words = (f"resume={start_from}", "schedule=decay", "steps=+10", f"autoencoder={autoencoder.parent}")
    done = adit_train(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    out = trunk / "branches" / "step-00000006-to-00000016"
    assert NodeFolder.load(out).start_from == start_from
    assert weights_bytes(out) == weights_bytes(branched[6])
    refused = adit_train(*words[:2], "steps=+12", words[3], f"out={out}")
    assert refused.returncode == 2
    assert "holds another run" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["now"], "now: not key=value; see adit train --help"),
        (["stage=x"], "stage is 'x'; expected autoencoder or diffusion, or resume=RUN"),
        (["stage=autoencoder"], "out is missing; expected out=FOLDER for the run"),
        (["stage=diffusion", "out=d"], "autoencoder is missing; expected autoencoder=RUN"),
        (
            ["stage=autoencoder", "out=d", "steps=3"],
            "steps=3: not expected here; expected stage, ",
        ),
        (["stage=autoencoder", "out=d", "seed=0,1"], "seed has 2 values; expected one"),
        (["stage=autoencoder", "out=d", "autoencoder.stops=3"], "autoencoder.stops=3: no such setting"),
        (["resume=r", "schedule=cosine"], "schedule is 'cosine'; expected decay"),
        (["resume=r", "schedule=decay"], "r: not a committed checkpoint; expected RUN/checkpoints/step-"),
        (["resume=r/checkpoints/step-00000004"], "is one checkpoint; expected a run's folder to go on with"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *words]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
