"""What one run's settings, journal and data say of it: columns of a study's point."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adit_scale.config import StudyConfig
from adit_scale.jobs.training_data import Shown
from adit_scale.scaling import costs
from adit_scale.scaling.config import SIZE_AXIS, SweepConfig
from adit_scale.scaling.study_data import by_step
from adit_scale.training.peaks import find_peak

SAMPLES_PREFIX = "samples/"  # of rates scored while a run trained
Records = Sequence[Mapping[str, Any]]


def last_value(records: Records, key: str, default: float = 0.0) -> float:
    values = by_step(records, key)
    return values[max(values)] if values else default


def seen(records: Records, config: StudyConfig, shown: Shown | None) -> dict[str, Any]:
    """What the run has seen and done so far; by domain as the data's epochs are made up."""
    atoms, sets = last_value(records, "train/atoms_seen"), last_value(records, "train/sets_seen")
    found: dict[str, Any] = {
        "atoms_seen": int(atoms),
        "sets_seen": int(sets),
        "flops": last_value(records, "train/flops_cum"),
        "flops_total": last_value(records, "train/flops_total_cum"),
    }
    if shown is None:
        return found | {"epochs": math.nan, "domain": config.data.domain}
    epochs = sets / sum(shown.sets.values())
    return found | {
        "epochs": epochs,
        "unique_atoms": shown.unique_atoms,
        "domain": shown.only,
        "domain_match": config.data.domain_match if config.data.domain else "",
        "domain_atoms": {name: epochs * n for name, n in shown.atoms.items() if n},
        "domain_sets": {name: epochs * n for name, n in shown.sets.items() if n},
    }


def optimiser(config: StudyConfig, records: Records) -> dict[str, Any]:
    """The settings as the run itself resolved them, where its journal says so."""
    params: Mapping[str, Any] = next((r["values"] for r in records if r["kind"] == "params"), {})
    precision = params.get("parallel", {}).get("precision", config.parallel.precision)
    optim = config.diffusion.optim
    return {
        "lr": optim.lr,
        "schedule": optim.schedule,
        "warmup_steps": optim.warmup_steps,
        "parametrization": optim.parametrization,
        "precision": precision,
        "steps": config.diffusion.steps,
    }


def validation_grid(config: StudyConfig, shown: Shown | None) -> str:
    """A digest of what the loss is measured on: sets, times, noise, weights."""
    from adit_scale.training.stages import T_LOSS_MAX, VALIDATION_SEED, VALIDATION_TIMES  # torch

    n_sets = config.diffusion.validation_sets
    n_sets = n_sets if shown is None else min(n_sets, shown.n_held_out)
    grid = ["val", n_sets, VALIDATION_TIMES, VALIDATION_SEED, T_LOSS_MAX, "ema"]
    return hashlib.sha256(json.dumps(grid).encode()).hexdigest()[:12]


def planned_gpu_hours(config: StudyConfig, shown: Shown | None, devices: str) -> float:
    """GPU-hours by the study's budget (budget.gpu, budget.mfu), as `plan` reckons them; of a branch its own
    steps alone. NaN for a run on devices of another peak than the budget's: its hours are none of those."""
    peak, own = find_peak(config.budget.gpu, "bf16"), find_peak(devices, "bf16")
    if shown is None or peak is None or own is None or own.flops_per_s != peak.flops_per_s:
        return math.nan
    stage = config.diffusion
    share = 1 - stage.optim.decay_from / stage.steps if stage.optim.schedule == "decay" else 1.0
    flops = costs.diffusion_flops(config, shown.contents)[1] * share
    return flops / (config.budget.mfu * peak.flops_per_s) / 3600


def axes_of(sweep: SweepConfig, run: StudyConfig, evaluation: StudyConfig | None) -> dict[str, Any]:
    """A point's values on the axes that are single settings, where a report of an earlier version does not
    name its points' axes; groups have no value of their own."""
    found: dict[str, Any] = {}
    for axis in sweep.axes():
        scoring = axis.partition(".")[0] in ("sampling", "evaluation")
        value: Any = evaluation if scoring else run
        value = value and (value.model.denoiser.name if axis == SIZE_AXIS else _setting(value, axis))
        if isinstance(value, str | int | float | bool):
            found[axis] = value
    return found


def _setting(config: StudyConfig, axis: str) -> Any:
    value: Any = config
    for part in axis.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def training_rates(records: Records) -> dict[str, list[list[float]]]:
    """By metric, rows (atoms seen, rate, lower, upper) of samples scored while the run trained."""
    atoms = by_step(records, "train/atoms_seen")
    known = np.array(sorted(atoms.items()), dtype=float).reshape(-1, 2)
    keys = {k for r in records if r["kind"] == "metrics" for k in r["values"] if k.startswith(SAMPLES_PREFIX)}
    rates = [key for key in sorted(keys) if {f"{key}_lower", f"{key}_upper"} <= keys]
    found: dict[str, list[list[float]]] = {}
    for key in rates if len(known) else []:
        value, lower, upper = (by_step(records, f"{key}{end}") for end in ("", "_lower", "_upper"))
        found[key.removeprefix(SAMPLES_PREFIX)] = [
            [
                float(np.interp(step, *np.vstack([[0, 0], known]).T)),
                value[step],
                lower.get(step, math.nan),
                upper.get(step, math.nan),
            ]
            for step in sorted(value)
        ]
    return found
