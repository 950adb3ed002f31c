"""Optima of parabolas and their intervals from resampled noise: of sizes at a budget, of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adit_scale.scaling.laws import Array
from adit_scale.scaling.resampling import scale_factor, tails
from adit_scale.scaling.results import Estimate, Interval


@dataclass(frozen=True)
class ParabolaNoise:
    """Of one run's log loss. widen: (R,), the scale of each resample's, the same in all its parabolas."""

    sigma: float
    widen: Array
    rng: np.random.Generator
    tails: tuple[float, float]

    @staticmethod
    def of(sigma: float, dof: float, n_resamples: int, seed: int, confidence: float) -> ParabolaNoise:
        """sigma known as well as ``dof`` degrees of freedom tell: draws are Student's t."""
        rng = np.random.default_rng(seed)
        return ParabolaNoise(sigma, scale_factor(rng, dof, n_resamples), rng, tails(confidence))

    def resampled(self, fitted: Array) -> Array:
        """(R, P) of log losses."""
        shape = (len(self.widen), len(fitted))
        return fitted + self.widen[:, None] * self.sigma * self.rng.standard_normal(shape)

    def interval(self, draws: Array) -> Interval | None:
        """Of draws (R,) that are NaN where a resample has no optimum: those may lie on either side.

        For a parabola's optimum, a ratio of normal variables, this is Fieller's interval (1954), which has no
        bounds where the curvature may be 0; None then.
        """
        low = np.quantile(np.where(np.isnan(draws), -math.inf, draws), self.tails[0], method="inverted_cdf")
        high = np.quantile(np.where(np.isnan(draws), math.inf, draws), self.tails[1], method="inverted_cdf")
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        return Interval(float(low), float(high))


def vertex(coefficients: Array) -> tuple[Array, Array]:
    """Place and height of the minimum of c0 + c1 u + c2 u^2; NaN where c2 is not above 0."""
    c0, c1, c2 = coefficients
    c2 = np.where(c2 > 0, c2, math.nan)
    return -c1 / (2 * c2), c0 - c1 * c1 / (4 * c2)


def vertex_draws(u: Array, y: Array, noise: ParabolaNoise) -> tuple[Array, Array]:
    """Places and heights (R,) of the minima of parabolas through resampled ``y`` over ``u``, both (P,)."""
    design = np.stack([np.ones_like(u), u, u * u], axis=1)
    inverse = np.linalg.pinv(design)
    return vertex(inverse @ noise.resampled(design @ (inverse @ y)).T)


def monotonic_estimate(
    value: Array | float, draws: Array, noise: ParabolaNoise, scale: Callable[[Array], Array]
) -> Estimate:
    """``value`` and the interval of its draws, both taken to the reader's ``scale``, which is monotonic."""
    estimate = float(scale(np.asarray(value)))
    inner = noise.interval(draws)
    if inner is None:
        return Estimate(estimate)
    low, high = sorted(float(scale(np.asarray(end))) for end in (inner.low, inner.high))
    return Estimate(estimate, Interval(low, high))
