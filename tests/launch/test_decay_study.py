"""A study of decays through launch.py: a trunk, its branches, one of them killed, and a study beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adit_scale.jobs.attempts import attempts
from adit_scale.jobs.node import NodeFolder, file_digest, read_done
from adit_scale.tracking.journal import events, read_journal, series
from adit_scale.training.checkpoint import committed, read_state, step_of
from launchers.record import StudyRecord

REPO = Path(__file__).resolve().parents[2]
STEPS, DECAY_FROM, KILLED_AT = 200, 140, 150
LIMIT_S = 1200  # of a machine with much else to do
WORDS = [
    "scale=demo",
    "model/autoencoder=tiny",
    "model/denoiser=dit_32",
    "sweep.evaluate=false",
    "sweep.bootstrap=100",
    *(f"{stage}.{key}" for stage in ("autoencoder", "diffusion") for key in (
        "atom_budget=128", "validation_sets=8", "validate_every_steps=100", "log_every_steps=20",
        "checkpoint_every_steps=10",
    )),
    "autoencoder.steps=4",
    "diffusion.samples_every_steps=0",
    "diffusion.optim.warmup_steps=5",
    "diffusion.optim.decay_fraction=0.3",
    "launcher.parallel=2",
    "launcher.retries=1",
    "launcher.backoff_s=0",
    "parallel.threads=1",
    "tracking=none",
]  # fmt: skip


def launch(runs: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "launch.py", *words, *WORDS, f"runs={runs}"]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def processes_of(folder: Path) -> list[int]:
    """Those whose command names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(folder).encode() in words:
                found.append(int(entry.name))
    return found


def kill_once_at(study: Path, pattern: str, step: int) -> None:
    """Kill the job of a node, as a full memory would, once it has committed a checkpoint at ``step``."""
    begin = time.monotonic()
    while time.monotonic() < begin + LIMIT_S:
        for folder in study.glob(pattern):
            if any(step_of(found) >= step for found in committed(folder / "checkpoints")):
                for pid in processes_of(folder):
                    os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of {pattern} at step {step}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Study ``chinchilla`` of decays at 1 and 2 times 100 steps, the second killed in its decay."""
    runs = tmp_path_factory.mktemp("runs")
    process = launch(runs, "sweep=chinchilla", "sweep.decays=1,2", f"diffusion.steps={STEPS // 2}")
    try:
        kill_once_at(runs / "chinchilla", "diffusion-dit_32-x2-*", KILLED_AT)
        out, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.terminate()
    assert process.returncode == 0, out
    return runs


def node(runs: Path, study: str, name: str) -> NodeFolder:
    [record] = StudyRecord.load(runs / study).find(name)
    return NodeFolder.load(record.folder)


@pytest.mark.slow
def test_a_killed_branch_went_on_from_its_own_checkpoint(runs):
    branch, trunk = node(runs, "chinchilla", "diffusion dit_32-x2"), node(runs, "chinchilla", "dit_32-trunk")
    assert branch.inputs["trunk"] == trunk.path
    assert [attempt.outcome for attempt in attempts(branch.path)] == ["retrying", "done"]
    records = read_journal(branch.path / "journal.jsonl")
    [begin] = events(records, "branch")
    assert begin["values"]["trunk_step"] == DECAY_FROM
    steps, atoms = series(records, "train/atoms_seen")
    assert list(steps) == [160, 180, STEPS]
    assert atoms[-1] > 1.3 * read_state(committed(trunk.path / "checkpoints")[0]).atoms_seen
    kept = {step_of(folder) for folder in committed(trunk.path / "checkpoints")}
    assert {DECAY_FROM // 2, DECAY_FROM} <= kept  # what the branches leave


@pytest.mark.slow
def test_a_decay_is_the_wsd_run_of_its_length_and_shares_its_inputs(runs):
    length = (f"diffusion.steps={STEPS}", "diffusion.optim.schedule=wsd")
    process = launch(runs, "sweep=scaling", "sweep.name=wsd", *length)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, out
    assert "4 jobs, 2 done, 2 to do" in out  # shards and autoencoder are the other study's
    branch, whole = node(runs, "chinchilla", "diffusion dit_32-x2"), node(runs, "wsd", "diffusion dit_32")
    assert whole.inputs["autoencoder"].parent.name == "chinchilla"
    weights = [folder.path / "weights/weights.safetensors" for folder in (branch, whole)]
    assert file_digest(weights[0]) == file_digest(weights[1])
    flops = [
        series(read_journal(f.path / "journal.jsonl"), "train/flops_cum")[1][-1] for f in (branch, whole)
    ]
    assert flops[0] == flops[1]  # the trunk's included


@pytest.mark.slow
def test_a_branch_is_made_again_with_its_trunk(runs):
    """Only then is it not done: its inputs are part of what it is."""
    branch = node(runs, "chinchilla", "diffusion dit_32-x1")
    assert branch.is_done()
    assert read_done(branch.path)["inputs"].keys() == {"shards", "autoencoder", "trunk"}
