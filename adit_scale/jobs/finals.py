"""What a diffusion run came to, as logarithms: a tracking store's scatter plots have no logarithmic axes."""

from __future__ import annotations

import math
from pathlib import Path

from adit_scale import config as settings
from adit_scale.jobs.node import CONFIG
from adit_scale.models.ladder import denoiser_parameters
from adit_scale.scaling.study_data import VALIDATION_LOSS_KEY
from adit_scale.tracking.journal import FILE_NAME, read_journal, series

LAST = {
    "log10_atoms": "train/atoms_seen",
    "log10_flops": "train/flops_cum",
    "log10_flops_total": "train/flops_total_cum",
    "log10_loss": VALIDATION_LOSS_KEY,
}


def final_metrics(run_folder: Path) -> dict[str, float]:
    """log10 of N, D, C, C_total and L at the end of the run in ``run_folder``; those it journaled.

    Raises DataError where its settings or journal are damaged.
    """
    found = {
        "log10_params": math.log10(denoiser_parameters(settings.load(run_folder / CONFIG).model.denoiser))
    }
    path = run_folder / FILE_NAME
    records = read_journal(path) if path.is_file() else []
    for name, key in LAST.items():
        values = series(records, key)[1]
        if values and values[-1] > 0 and math.isfinite(values[-1]):
            found[name] = math.log10(values[-1])
    return found
