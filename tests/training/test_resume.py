"""A killed run, started again, ends where the uninterrupted run ends, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adit_scale.tracking.journal import SIDE_FOLDER, events, read_journal, series
from adit_scale.training import checkpoint
from tests.training import runs
from tests.training.side_programs import DIGESTS, program

STEPS = 24


def deterministic_fields(folder: Path) -> list[tuple]:
    """All but what a resumed run says of its resuming."""
    records = [(r["kind"], r["step"], r["values"]) for r in read_journal(folder)]
    return [r for r in records if r[2].get("event") not in checkpoint.RESUME_EVENTS]


def weights_bytes(folder: Path) -> bytes:
    return (folder / "weights" / "weights.safetensors").read_bytes()


def start(folder: Path, world_size: int, autoencoder: Path) -> subprocess.Popen:
    """The run in a process group of its own, so that all its ranks can be killed at once."""
    command = runs.torchrun_command([folder], world_size, autoencoder)
    return subprocess.Popen(
        command,
        env=runs.environment(),
        cwd=runs.REPO,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_step(folder: Path, step: int, process: subprocess.Popen, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be interrupted"
        if (folder / "journal.jsonl").is_file() and any(r["step"] >= step for r in read_journal(folder)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} after {timeout_s} s")


@pytest.mark.parametrize(("world_size", "zero_stage", "precision"), [(1, 0, "fp32"), (2, 3, "bf16")])
def test_kill_and_resume_is_bit_for_bit(tmp_path, shards, autoencoder, world_size, zero_stage, precision):
    config = runs.small_study(
        shards, STEPS, world_size=world_size, zero_stage=zero_stage, precision=precision
    )
    config.diffusion = replace(config.diffusion, samples_every_steps=2)  # scored beside the training
    whole = runs.prepare(tmp_path / "whole", config, "diffusion")
    killed = runs.prepare(tmp_path / "killed", config, "diffusion")
    for folder in (whole, killed):
        program(folder / "program.py", DIGESTS)
    runs.run([whole], world_size, autoencoder)

    process = start(killed, world_size, autoencoder)
    wait_for_step(killed, 6, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "weights").exists()
    newest = checkpoint.committed(killed / "checkpoints")
    assert newest, "killed before the first checkpoint"
    runs.run([killed], world_size, autoencoder)

    assert weights_bytes(killed) == weights_bytes(whole)
    assert deterministic_fields(killed) == deterministic_fields(whole)
    scores = deterministic_fields(whole / SIDE_FOLDER)
    assert [step for _, step, _ in scores] == list(range(2, STEPS + 1, 2))
    assert len({values["samples/number"] for _, _, values in scores}) == STEPS // 2
    assert deterministic_fields(killed / SIDE_FOLDER) == scores


def test_sigterm_saves_and_the_next_start_goes_on(tmp_path, shards, autoencoder):
    config = runs.small_study(shards, STEPS)
    whole = runs.prepare(tmp_path / "whole", config, "diffusion")
    stopped = runs.prepare(tmp_path / "stopped", config, "diffusion")
    runs.run([whole], 1, autoencoder)

    process = start(stopped, 1, autoencoder)
    wait_for_step(stopped, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    saved = checkpoint.committed(stopped / "checkpoints")
    assert saved
    assert not (stopped / "weights").exists()
    runs.run([stopped], 1, autoencoder)
    assert weights_bytes(stopped) == weights_bytes(whole)
    assert deterministic_fields(stopped) == deterministic_fields(whole)


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, shards, autoencoder):
    config = runs.small_study(shards, 8)
    folder = runs.prepare(tmp_path / "run", config, "diffusion")
    runs.run([folder], 1, autoencoder)
    expected = weights_bytes(folder)
    newest, before = checkpoint.committed(folder / "checkpoints")
    shard = newest / "rank-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)

    runs.run([folder], 1, autoencoder)
    assert weights_bytes(folder) == expected
    (rejected,) = events(read_journal(folder), "checkpoint_rejected")
    assert str(shard) in rejected["values"]["problem"]
    assert rejected["step"] == checkpoint.Checkpoint(before).state.step


def test_another_zero_stage_goes_on_from_the_fragments(tmp_path, shards, autoencoder):
    """Fragments carry their own addresses, so ZeRO 1's are ZeRO 3's too: the same losses follow."""
    losses = {}
    for zero_stage in (1, 3):
        folder = runs.prepare(tmp_path / str(zero_stage), runs.small_study(shards, 8), "diffusion")
        runs.run([folder], 1, autoencoder)
        runs.prepare(folder, runs.small_study(shards, 12, zero_stage=zero_stage), "diffusion")
        runs.run([folder], 1, autoencoder)
        steps, losses[zero_stage] = series(read_journal(folder), "train/loss")
        assert steps == list(range(1, 13))
    assert losses[1][:9] == losses[3][:9]  # the first step after loading sees the same weights
    assert losses[3] == pytest.approx(losses[1], rel=1e-5)
