"""GPU-hours as FLOPs: a device's peak, and the share of it that runs reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.errors import ConfigError
from adit_scale.scaling.study_data import Point
from adit_scale.training.peaks import GPUS, Peak, find_peak


@dataclass(frozen=True)
class Hardware:
    """peak: of one device in bf16. mfu: share of it that training reaches, over 0 to 1; mfu_from: in words.

    price: of one GPU-hour in any currency, 0 where none was given.
    """

    gpu: str
    peak: Peak
    mfu: float
    mfu_from: str
    price: float = 0.0

    def flops(self, gpu_hours: float) -> float:
        return gpu_hours * 3600 * self.peak.flops_per_s * self.mfu

    def gpu_hours(self, flops: float) -> float:
        return flops / self.flops(1.0)


def bf16_peak(gpu: str) -> Peak:
    """Raises ConfigError for a GPU whose peak is not known."""
    peak = find_peak(gpu, "bf16")
    if peak is None:
        raise ConfigError(f"gpu is {gpu!r}; expected one of {', '.join(GPUS)}")
    return peak


def hardware(
    points: Sequence[Point], gpu: str, mfu: float | None, assumed: float, price: float = 0.0
) -> Hardware:
    """mfu: as given, else as the study's bf16 runs measured it on this GPU at their largest size, else
    ``assumed``. Raises ConfigError for a GPU whose peak is not known."""
    peak = bf16_peak(gpu)
    if mfu is not None:
        return Hardware(gpu, peak, mfu, "given", price)
    known = [
        p
        for p in points
        if p.precision == "bf16" and math.isfinite(p.mfu) and p.mfu > 0 and _same(p.devices, peak)
    ]
    if not known:
        return Hardware(gpu, peak, assumed, "assumed: the study ran on no such GPU", price)
    largest = max(known, key=lambda p: p.n_parameters)
    alike = [p.mfu for p in known if p.n_parameters == largest.n_parameters]
    return Hardware(gpu, peak, float(np.median(alike)), f"as {largest.size} of the study reached", price)


def _same(devices: str, peak: Peak) -> bool:
    found = find_peak(devices, "bf16")
    return found is not None and found.source == peak.source
