"""Intervals of the two-parameter law L = A·N^-α: log L is straight in log N, so t intervals are exact."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from adit_scale.scaling import noise
from adit_scale.scaling.noise import LACK_OF_FIT_P
from adit_scale.scaling.results import Interval
from adit_scale.scaling.solver import Array, Labels


class StraightLine:
    """Least squares of log loss on log N. n, loss: (P,). Seeds of one size that agree better than the line
    fits them count as one (misfit)."""

    def __init__(self, n: Array, loss: Array, confidence: float, seed_noise: float | None = None) -> None:
        self.confidence = confidence
        self.reference = float(np.log(n).mean())
        self.design = np.stack([np.ones(len(n)), self.reference - np.log(n)], axis=1)
        self.log_loss = np.log(loss)
        self._fit(np.eye(len(n)))
        self.misfit = noise.lack_of_fit(n, self.residual, 2)
        self.misfits = self.misfit is not None and self.misfit < LACK_OF_FIT_P
        squares, freedom = float(self.residual @ self.residual), len(n) - 2
        self.covariance: noise.Covariance | None = None
        free = freedom < 1 or seed_noise is None
        agrees = free or stats.chi2.sf(squares / (seed_noise or 1.0) ** 2, freedom) >= LACK_OF_FIT_P
        if seed_noise is not None and agrees and not self.misfits:
            self.covariance = noise.given(seed_noise, len(n))
        else:
            groups: Labels = n if self.misfits else np.arange(len(n))
            self.covariance = noise.components(self.residual, self.design, groups, cells=self.misfits)
        if self.covariance is not None:
            self._fit(self.covariance.matrix())

    def _fit(self, covariance: Array) -> None:
        inverse = np.linalg.inv(covariance)
        self.spread = np.linalg.inv(self.design.T @ inverse @ self.design)
        self.theta = self.spread @ self.design.T @ inverse @ self.log_loss
        self.residual = self.log_loss - self.design @ self.theta

    def _interval(self, gradient: Array, n_runs: float = math.inf) -> tuple[float, float]:
        assert self.covariance is not None
        variance = gradient @ self.spread @ gradient + self.covariance.of_new_runs(n_runs)
        half = math.sqrt(variance * self.covariance.quantile(self.design, gradient, self.confidence, n_runs))
        centre = float(gradient @ self.theta)
        return centre - half, centre + half

    def exponent(self) -> Interval:
        return Interval(*self._interval(np.array([0.0, 1.0])))

    def coefficient(self) -> Interval:
        """Of A, referred to N = 1."""
        low, high = self._interval(np.array([1.0, self.reference]))
        return Interval(math.exp(low), math.exp(high))

    def prediction(self, n: Array, n_runs: float = math.inf) -> tuple[Array, Array]:
        """Interval of the law at n (Q,), or of the mean of n_runs more runs there."""
        rows = [self._interval(np.array([1.0, self.reference - math.log(v)]), n_runs) for v in n]
        low, high = np.exp(np.array(rows)).T
        return low, high
