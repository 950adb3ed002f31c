"""Where a fit's intervals come from: the noise that runs show, and studies resampled with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from adit_scale.scaling.laws import Array


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Noise:
    """Where a fit's intervals come from.

    kind: "runs" (resampled runs of each size), "seed" (a given seed-to-seed deviation), "residual" (scatter
    about the fitted law) or "none". sigma: standard deviation of log loss of one run. dof: degrees of freedom
    behind sigma (inf when given). holds: the same in words.
    """

    kind: str
    sigma: float
    dof: float
    holds: str


def estimate_noise(
    n: Array, log_loss: Array, fitted: Array, n_parameters: int, seed_noise: float | None
) -> Noise:
    """The best noise the runs can show: repeated runs, else a given deviation, else scatter about the law."""
    sizes, inverse, counts = np.unique(n, return_inverse=True, return_counts=True)
    if counts.min() >= 2:
        dof = len(n) - len(sizes)
        deviation = log_loss - (np.bincount(inverse, log_loss) / counts)[inverse]
        sigma = math.sqrt(float((deviation**2).sum()) / dof)
        holds = (
            f"seed-to-seed noise: deviations of {len(n)} runs from the means of their {len(sizes)} sizes, "
            f"resampled by run and widened for {dof} degrees of freedom; not the law's own error"
        )
        return Noise("runs", sigma, dof, holds)
    if seed_noise is not None:
        holds = f"a given seed-to-seed deviation of {seed_noise:.2g} in log loss; not the law's own error"
        return Noise("seed", seed_noise, math.inf, holds)
    dof = len(n) - n_parameters
    if dof < 1:
        return Noise("none", math.nan, 0, "nothing: as many runs as parameters")
    sigma = math.sqrt(float(((log_loss - fitted) ** 2).sum()) / dof)
    holds = (
        f"scatter of {len(n)} runs about the law ({dof} degrees of freedom, Student-t), taken as normal and "
        "equal at all sizes; one run a size shows no seed noise by itself"
    )
    return Noise("residual", sigma, dof, holds)


def resample(
    rng: np.random.Generator, noise: Noise, n: Array, log_loss: Array, fitted: Array, n_resamples: int
) -> Array:
    """Log losses of resampled studies, (R, P). The scale of each resample's noise is itself drawn (χ²)."""
    shape = (n_resamples, len(n))
    widen = scale_factor(rng, noise.dof, n_resamples)[:, None]
    if noise.kind != "runs":
        return fitted + widen * noise.sigma * rng.standard_normal(shape)
    # Whole runs are resampled: their deviations from their size's mean, pooled over sizes so that two runs a
    # size give more than three outcomes. Deviations of m runs are too small by (m-1)/m in variance.
    _, inverse, counts = np.unique(n, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, log_loss) / counts
    deviation = (log_loss - mean[inverse]) * np.sqrt(counts / (counts - 1))[inverse]
    return fitted + widen * rng.choice(deviation, shape)


def scale_factor(rng: np.random.Generator, dof: float, size: int) -> Array:
    """sqrt(ν/χ²_ν): makes normal draws of an estimated deviation Student's t; 1 when it is known."""
    if math.isinf(dof):
        return np.ones(size)
    return np.sqrt(dof / rng.chisquare(dof, size))


def student(rng: np.random.Generator, dof: float, size: int) -> Array:
    return scale_factor(rng, dof, size) * rng.standard_normal(size)


def lack_of_fit(n: Array, log_loss: Array, fitted: Array, n_parameters: int) -> float | None:
    """p-value of the F test of the law's misfit against the scatter between runs of one size."""
    sizes, inverse, counts = np.unique(n, return_inverse=True, return_counts=True)
    pure_dof, misfit_dof = len(n) - len(sizes), len(sizes) - n_parameters
    if not pure_dof or misfit_dof <= 0:
        return None
    mean = np.bincount(inverse, log_loss) / counts
    pure = float(((log_loss - mean[inverse]) ** 2).sum()) / pure_dof
    misfit = float(((mean[inverse] - fitted) ** 2).sum()) / misfit_dof
    return float(stats.f.sf(misfit / max(pure, 1e-300), misfit_dof, pure_dof))


def tails(confidence: float) -> tuple[float, float]:
    return (1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0
