"""Validity during training: a few samples of the EMA weights, drawn and scored like the final ones."""

from __future__ import annotations

import sys
from pathlib import Path

from adit_scale.config import StudyConfig
from adit_scale.training.side_scoring import SideScoring


def make_scorer(folder: Path, config: StudyConfig, autoencoder_weights: Path) -> SideScoring | None:
    """What scores samples beside the diffusion run in ``folder``; None where none are asked for."""
    if not config.diffusion.samples_every_steps:
        return None
    command = [sys.executable, "-m", "adit_scale.jobs.side_scorer", str(autoencoder_weights.absolute())]
    return SideScoring(folder, config, command)
