"""What a run does beside stepping: steps that diverge."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace

from adit_scale.tracking.journal import events, read_journal, series
from tests.training import runs


def test_a_diverging_run_skips_counts_and_gives_up_with_one_line(tmp_path, shards, autoencoder):
    config = runs.small_study(shards, 20, zero_stage=0)
    config.diffusion = replace(config.diffusion, max_skipped_in_a_row=2, validate_every_steps=20)
    config.diffusion.optim = replace(config.diffusion.optim, lr=1e30, warmup_steps=0)
    folder = runs.prepare(tmp_path / "run", config, "diffusion")
    done = subprocess.run(
        runs.torchrun_command([folder], 1, autoencoder),
        env=runs.environment(),
        cwd=runs.REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "3 steps in a row" in done.stderr
    assert "diffusion.max_skipped_in_a_row=2" in done.stderr
    records = read_journal(folder)
    skipped = events(records, "skipped_step")
    assert [r["step"] for r in skipped] == [2, 3, 4]
    assert all(not math.isfinite(r["values"]["gradient_norm"]) for r in skipped)
    _, losses = series(records, "train/loss")
    assert all(math.isfinite(loss) for loss in losses)
