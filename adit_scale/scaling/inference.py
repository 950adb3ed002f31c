"""Intervals of a law's parameters and predictions from its runs: the noise model and the profile together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from adit_scale.scaling import noise
from adit_scale.scaling.noise import LACK_OF_FIT_P, Covariance
from adit_scale.scaling.profile import Profile, Side, exponent_bounds
from adit_scale.scaling.results import Interval
from adit_scale.scaling.solver import Array, Labels

# Coordinates x (..., T, P) of runs at nodes (..., m).
Coordinates = Callable[[Array], Array]
# Coordinates (Q, J, T) of Q places, each at J nodes of its own (Q, J, m).
Places = Callable[[Array], Array]


@dataclass(frozen=True)
class Runs:
    """What was measured. loss: (P,). groups: (P,) the run (trunk) of each. cells: (P,) equal for one N and D.

    sizes: (P,), equal for one N.
    """

    loss: Array
    groups: Labels
    cells: Labels
    sizes: Labels


class Inference:
    """Law fitted by weighted least squares of relative residuals, and all intervals that follow from it.

    coordinates: of runs at nodes (log exponents, and log r_star last where there is one). more_bounds: of
    that one. reference: log of what x_t are relative to, kept for callers. misfit: p-value of the
    lack-of-fit test; None without repeats. groups in ``covariance`` are runs, or repeats of one N and D (or
    of one N) where that test failed.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        n_terms: int,
        runs: Runs,
        confidence: float,
        seed_noise: float | None = None,
        more_bounds: tuple[tuple[float, float], ...] = (),
        reference: tuple[float, ...] | None = None,
    ) -> None:
        self.reference = reference
        self.coordinates, self.n_terms, self.runs, self.confidence = coordinates, n_terms, runs, confidence
        self.bounds = exponent_bounds(n_terms, more_bounds)
        n_points = len(runs.loss)
        self._fit(np.eye(n_points) * 1e-4)
        shared = len(np.unique(runs.groups)) < n_points
        # Means over a run compare sizes (3 parameters); points of their own compare cells (all parameters).
        tested = runs.sizes if shared and n_terms > 1 else runs.cells
        freedom = 3 if shared else self.jacobian.shape[1]
        residual, labels = _means(self.residual, runs.groups, tested)
        self.misfit = noise.lack_of_fit(labels, residual, freedom)
        self.misfits = self.misfit is not None and self.misfit < LACK_OF_FIT_P
        groups = tested if self.misfits else runs.groups
        self.covariance: Covariance | None = None
        if seed_noise is not None and not self.misfits:
            self.covariance = noise.given(seed_noise, n_points)
            self._fit(self.covariance.matrix())
            freedom = n_points - int(np.linalg.matrix_rank(self.jacobian))
            if freedom < 1 or stats.chi2.sf(self.profile.minimum, freedom) >= LACK_OF_FIT_P:
                return
        # Variances about the fit where all points count alike: a second round could let runs' noise swallow
        # the differences between sizes.
        self.covariance = noise.components(self.residual, self.jacobian, groups, cells=self.misfits)
        if self.covariance is not None:
            self._fit(self.covariance.matrix())

    def _fit(self, covariance: Array) -> None:
        self.profile = Profile(self.coordinates, self.n_terms, self.runs.loss, covariance, self.bounds)
        self.v = self.profile.solve(self.profile.best)[0]
        x = self.coordinates(self.profile.best)
        fitted = self.law(x)
        self.residual = 1.0 - fitted / self.runs.loss
        self.jacobian = self._gradients(self.coordinates).T * (fitted / self.runs.loss)[:, None]

    @property
    def exponents(self) -> Array:
        return np.exp(self.profile.best[: self.n_terms])

    def law(self, x: Array) -> Array:
        """Loss at coordinates (T, P)."""
        return self.v[0] + self.v[1:] @ np.exp(-self.exponents[:, None] * x)

    def _gradients(self, coordinates: Coordinates) -> Array:
        """Of log loss at the best fit's coordinates (T, P) by (E, c_1.., e_1.. and log r_star): (K, P)."""
        x = coordinates(self.profile.best)
        terms = np.exp(-self.exponents[:, None] * x)
        rows = [np.ones(x.shape[1]), *terms, *(-self.v[1:, None] * terms * x)]
        if len(self.bounds) > self.n_terms:
            step = np.eye(len(self.bounds))[-1] * 1e-4
            ahead, behind = (coordinates(self.profile.best + s * step) for s in (1, -1))
            rows.append(-self.v[-1] * self.exponents[-1] * terms[-1] * (ahead - behind)[-1] / 2e-4)
        return np.stack(rows) / self.law(x)

    # -- degrees of freedom and quantiles

    def quantile(self, gradient: Array, n_runs: float = math.inf) -> float:
        """How far S may rise for a quantity with this gradient by the parameters."""
        assert self.covariance is not None
        scale = np.linalg.norm(self.jacobian, axis=0)
        scale[scale == 0] = 1.0
        return self.covariance.quantile(self.jacobian / scale, gradient / scale, self.confidence, n_runs)

    def _unit(self, index: int) -> Array:
        return np.eye(self.jacobian.shape[1])[index]

    # -- intervals of parameters

    def exponent(self, t: int) -> tuple[Side, Side]:
        """Ends of the interval of e_t."""
        q = self.quantile(self._unit(1 + self.n_terms + t))
        return _exp(self.profile.crossings(t, q))

    def extra(self) -> tuple[Side, Side]:
        """Ends of the interval of the last coordinate (r_star)."""
        return _exp(self.profile.crossings(len(self.bounds) - 1, self.quantile(self._unit(-1))))

    def exponent_share(self) -> tuple[Side, Side]:
        """Ends of the interval of e_2 / (e_1 + e_2)."""
        first, second = self.exponents
        gradient = self._unit(4) * first - self._unit(3) * second
        basis = np.eye(len(self.bounds))
        basis[1, 0] = -1.0
        ends = self.profile.crossings(1, self.quantile(gradient), basis)
        low, high = (Side(1.0 / (1.0 + math.exp(-s.value)), s.open) for s in ends)
        return low, high

    def box(self, quantile: float) -> Array:
        """Bounds (m, 2), in the nodes' coordinates, that hold the set S ≤ minimum + quantile."""
        for known, box in self._boxes.items():
            if quantile <= known <= 3 * quantile:
                return box
        ends = [self.profile.crossings(i, quantile) for i in range(len(self.bounds))]
        self._boxes[quantile] = np.array([[low.value, high.value] for low, high in ends])
        return self._boxes[quantile]

    @cached_property
    def _boxes(self) -> dict[float, Array]:
        return {}

    def offset(self) -> Interval:
        """Of E, never below 0: one-sided where 0 is inside."""
        quantile = self.quantile(self._unit(0))
        weights = np.eye(1 + self.n_terms)[0]
        low, high = self.profile.functional(
            lambda u: np.broadcast_to(weights, (*u.shape[:-1], len(weights))),
            np.zeros(1),
            quantile,
            self.box(quantile),
        )
        return Interval(abs(max(float(low[0]), 0.0)), float(high[0]))

    def coefficient(self, t: int, reference: float) -> Interval:
        """Of c_t referred to X = 1, where x_t = log X - reference."""
        gradient = self._unit(1 + t) / max(self.v[1 + t], 1e-300) + reference * self._unit(
            1 + self.n_terms + t
        )
        quantile = self.quantile(gradient)

        def weights(u: Array) -> Array:
            w = np.zeros((*u.shape[:-1], 1 + self.n_terms))
            w[..., 1 + t] = np.exp(np.exp(u[..., t]) * reference)
            return w

        with np.errstate(over="ignore"):
            low, high = self.profile.functional(weights, np.zeros(1), quantile, self.box(quantile))
        return Interval(abs(max(float(low[0]), 0.0)), float(high[0]))

    # -- predictions

    def prediction(self, places: Places, count: int, n_runs: float = math.inf) -> tuple[Array, Array]:
        """Interval (Q,), (Q,) of the law at ``count`` places, or of the mean of n_runs more runs there."""
        assert self.covariance is not None

        def at(node: Array) -> Array:
            return places(np.tile(node, (count, 1, 1)))[:, 0].T

        def weights(u: Array) -> Array:
            terms = np.exp(-np.exp(u[..., : self.n_terms]) * places(u))
            return np.concatenate([np.ones_like(terms[..., :1]), terms], axis=-1)

        quantiles = np.array([self.quantile(g, n_runs) for g in self._gradients(at).T])
        spread = math.sqrt(self.covariance.of_new_runs(n_runs)) * self.law(at(self.profile.best))
        return self.profile.functional(weights, spread, quantiles, self.box(float(quantiles.max())))


def _exp(ends: tuple[Side, Side]) -> tuple[Side, Side]:
    low, high = (Side(math.exp(s.value), s.open) for s in ends)
    return low, high


def _means(residual: Array, groups: Labels, labels: Labels) -> tuple[Array, Labels]:
    """Mean residual of each run, and its label (of the run's first point)."""
    _, first, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    return np.bincount(inverse, residual) / counts, labels[first]
