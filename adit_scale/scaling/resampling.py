"""Where a fit's intervals come from, in words and numbers, and small helpers of resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adit_scale.scaling.noise import Covariance
from adit_scale.scaling.solver import Array


@dataclass(frozen=True)
class Noise:
    """Where a fit's intervals come from.

    kind: "scatter" (of runs about the fitted law, seeds included), "runs" (the same, points of one run being
    correlated), "misfit" (repeats agree better than the law fits: its error at each size counts as noise),
    "seed" (a given seed-to-seed deviation) or "none". sigma: standard deviation of log loss of one run. dof:
    degrees of freedom behind the exponents' intervals (inf when given). holds: the same in words.
    """

    kind: str
    sigma: float
    dof: float
    holds: str


def describe(covariance: Covariance | None, n_points: int) -> Noise:
    """The noise that ``covariance`` holds."""
    if covariance is None:
        return Noise("none", math.nan, 0, "nothing: as many runs as parameters")
    sigma, dof = covariance.sigma, covariance.freedoms[0]
    if covariance.known:
        holds = f"a given seed-to-seed deviation of {sigma:.2g} in log loss; not the law's own error"
        return Noise("seed", sigma, math.inf, holds)
    freedom = (
        f"{dof:.3g} degrees of freedom between runs, Student-t"
        if covariance.shared
        else f"{dof:.3g} degrees of freedom, Student-t"
    )
    if covariance.cells:
        holds = (
            "repeats agree better than the law fits them, so its error at each size counts as noise "
            f"({freedom})"
        )
        return Noise("misfit", sigma, dof, holds)
    if covariance.shared:
        holds = (
            f"scatter of {n_points} points of {len(np.unique(covariance.groups))} runs about the law: points "
            f"of one run share a part of their noise ({freedom})"
        )
        return Noise("runs", sigma, dof, holds)
    holds = (
        f"scatter of {n_points} runs about the law, seeds included ({freedom}), taken as normal and equal at "
        "all sizes"
    )
    return Noise("scatter", sigma, dof, holds)


def scale_factor(rng: np.random.Generator, dof: float, size: int) -> Array:
    """sqrt(ν/χ²_ν): makes normal draws of an estimated deviation Student's t; 1 when it is known."""
    if math.isinf(dof):
        return np.ones(size)
    return np.sqrt(dof / rng.chisquare(dof, size))


def draw(rng: np.random.Generator, covariance: Covariance, size: int) -> Array:
    """Normal noise of ``size`` studies, (R, P): whole runs are drawn, each with its points.

    The scale of each draw's noise of runs, and of points within runs, is itself drawn (χ²).
    """
    root = np.linalg.cholesky(covariance.matrix())
    noise = rng.standard_normal((size, len(root))) @ root.T
    between = scale_factor(rng, covariance.freedoms[0], size)[:, None]
    if not covariance.shared:
        return noise * between
    mean = noise @ covariance.together / covariance.together.sum(axis=1)
    return mean * between + (noise - mean) * scale_factor(rng, covariance.freedoms[1], size)[:, None]


def interval_of(draws: Array, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(draws, tails(confidence))
    return float(low), float(high)


def tails(confidence: float) -> tuple[float, float]:
    return (1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0
