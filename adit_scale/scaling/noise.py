"""The noise of a study's final losses: log L = log f(N, D) + u_run + e.

Points of one run (decays that left one trunk, sampled at several D) share u. Both variances are estimated by
restricted maximum likelihood (Patterson & Thompson 1971) about the linearised law; the run's may come out
negative, as in the analysis of variance, so that equal numbers of points a run give exact t intervals.
Degrees of freedom of the two are those of Satterthwaite (1946; Giesbrecht & Burns 1985).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special, stats

from adit_scale.scaling.solver import Array, Labels

# Ratio of the variance of a run's mean to that of independent points: range searched.
RATIOS = np.geomspace(0.03, 1e4, 100)
LACK_OF_FIT_P = 0.01
# Shares of runs' means in a variance, at which quantiles of the sum of two Student's t are tabled.
SHARES = np.append(1e-9, np.linspace(0.0, 1.0, 33)[1:] ** 2)


@dataclass(frozen=True)
class Covariance:
    """V = point·I + run·(1 where two points share a group). uncertainty: (2, 2) of (point, run); zero if
    given.

    groups: (P,) of integers, the runs. shared: some group has several points. cells: groups are not runs but
    the repeats of one N and D, whose common term is the misfit of the law and does not average out over
    seeds.
    """

    point: float
    run: float
    uncertainty: Array
    groups: Labels
    shared: bool
    known: bool = False
    cells: bool = False

    def of_new_runs(self, n_runs: float) -> float:
        """Variance of the mean log loss of n_runs more runs at one N and D."""
        return max(float(self._shares(n_runs) @ [self.point, self.run]), 0.0)

    def _shares(self, n_runs: float) -> Array:
        return np.array([1.0 / n_runs, 1.0 if self.cells and math.isfinite(n_runs) else 1.0 / n_runs])

    @property
    def sigma(self) -> float:
        """Standard deviation of log loss of one point of one run."""
        return math.sqrt(max(self.point + self.run, 1e-300))

    @cached_property
    def together(self) -> Array:
        """(P, P): 1 where two points share a run."""
        return (self.groups[:, None] == self.groups).astype(float)

    def matrix(self) -> Array:
        return self.point * np.eye(len(self.groups)) + self.run * self.together

    @property
    def freedoms(self) -> tuple[float, float]:
        """Degrees of freedom behind the variance of runs' means, and behind that of points within a run."""
        if self.known:
            return math.inf, math.inf
        point = 2 * self.point**2 / self.uncertainty[0, 0]
        if not self.shared:
            return point, point
        mean = np.array([1.0, self._points_a_run])
        between = 2 * float(mean @ [self.point, self.run]) ** 2 / float(mean @ self.uncertainty @ mean)
        most = float(len(self.groups))
        return float(np.clip(between, 1.0, most)), float(np.clip(point, 1.0, most))

    @property
    def _points_a_run(self) -> float:
        return len(self.groups) / len(np.unique(self.groups))

    def quantile(
        self, jacobian: Array, gradient: Array, confidence: float, n_runs: float = math.inf
    ) -> float:
        """How often its variance gradient·θ̂ (and the mean of n_runs new runs) may lie off, squared.

        Student's t² where one variance counts. Else the error is the sum of two parts, of runs' means and of
        points within runs, each Student's t with its own degrees of freedom (Behrens-Fisher; Fisher 1935):
        with one degree of freedom between runs their variance may come out near 0, and must not then
        borrow the certainty of the points.
        """
        if not self.shared:
            return float(stats.t.ppf(0.5 + confidence / 2, self.freedoms[0])) ** 2
        inverse = np.linalg.inv(self.matrix())
        spread = np.linalg.pinv(jacobian.T @ inverse @ jacobian, rcond=1e-13)
        image = inverse @ jacobian @ spread @ gradient
        of_point, of_run = np.array([image @ image, image @ self.together @ image]) + self._shares(n_runs)
        means = of_run / self._points_a_run
        mean = self.point + self._points_a_run * self.run
        parts = np.array([means * mean, (of_point - means) * self.point])
        parts = np.maximum(parts, 0.0)
        share = float(parts[0] / max(parts.sum(), 1e-300))
        return float(np.interp(share, SHARES, self._quantiles(confidence)))

    def _quantiles(self, confidence: float) -> Array:
        if confidence not in self._tables:
            self._tables[confidence] = sum_of_students(*self.freedoms, confidence) ** 2
        return self._tables[confidence]

    @cached_property
    def _tables(self) -> dict[float, Array]:
        return {}


def sum_of_students(first_dof: float, second_dof: float, confidence: float) -> Array:
    """Two-sided quantiles of sqrt(w)·t_first + sqrt(1 - w)·t_second at the shares w of SHARES."""
    nodes = stats.t.ppf((np.arange(200) + 0.5) / 200, second_dof)
    low, high = (
        np.zeros(len(SHARES)),
        np.full(len(SHARES), 2.0 * stats.t.ppf(0.5 + confidence / 2, first_dof) + 20),
    )
    for _ in range(50):
        middle = 0.5 * (low + high)
        first = (middle[:, None] - np.sqrt(1.0 - SHARES)[:, None] * nodes) / np.sqrt(SHARES)[:, None]
        below = special.stdtr(first_dof, first).mean(axis=1) < 0.5 + confidence / 2
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    middle[0] = stats.t.ppf(0.5 + confidence / 2, second_dof)
    return middle


def independent(residual: Array, jacobian: Array) -> Covariance | None:
    """Points that share nothing: one variance, exact. None where no degree of freedom is left."""
    dof = len(residual) - np.linalg.matrix_rank(jacobian)
    if dof < 1:
        return None
    left = residual - jacobian @ np.linalg.lstsq(jacobian, residual, rcond=None)[0]
    variance = max(float(left @ left) / dof, 1e-300)
    uncertainty = np.diag([2 * variance**2 / dof, 0.0])
    return Covariance(variance, 0.0, uncertainty, np.arange(len(residual)), False)


def given(sigma: float, n_points: int) -> Covariance:
    """A standard deviation of log loss known from elsewhere, without degrees of freedom to spend."""
    return Covariance(sigma**2, 0.0, np.zeros((2, 2)), np.arange(n_points), False, known=True)


def components(residual: Array, jacobian: Array, groups: Labels, *, cells: bool = False) -> Covariance | None:
    """Variances of points and of runs about a law. residual: (P,), jacobian: (P, K), groups: (P,) run of
    each.

    None where the runs leave no degree of freedom.
    """
    _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if counts.max() == 1:
        return independent(residual, jacobian)
    rank = np.linalg.matrix_rank(jacobian)
    if len(residual) - rank < 2 or len(counts) < 3:
        return None
    basis: Array = np.linalg.svd(jacobian, full_matrices=False)[0][:, :rank]
    together = (groups[:, None] == groups).astype(float)
    scores = []
    for ratio in RATIOS:
        rho = (ratio - 1.0) / counts.max()
        scores.append(_restricted_likelihood(rho, residual, basis, groups, counts))
    k = int(np.argmax([s[0] for s in scores]))
    log_ratio = math.log(RATIOS[k])
    if 0 < k < len(RATIOS) - 1:  # the vertex of the parabola through the three best
        low, mid, high = (scores[i][0] for i in (k - 1, k, k + 1))
        step = math.log(RATIOS[1] / RATIOS[0])
        log_ratio += 0.5 * step * (low - high) / min(low - 2 * mid + high, -1e-12)
    rho = (math.exp(log_ratio) - 1.0) / counts.max()
    _, scale = _restricted_likelihood(rho, residual, basis, groups, counts)
    point, run = max(scale, 1e-300), rho * max(scale, 1e-300)
    matrix = point * np.eye(len(residual)) + run * together
    inverse = np.linalg.inv(matrix)
    projector = inverse - inverse @ basis @ np.linalg.inv(basis.T @ inverse @ basis) @ basis.T @ inverse
    parts = [projector, projector @ together]
    information = 0.5 * np.array([[np.einsum("ij,ji->", a, b) for b in parts] for a in parts])
    uncertainty: Array = np.linalg.pinv(information * point**2).astype(float) * point**2
    return Covariance(point, run, uncertainty, groups, True, cells=cells)


def _restricted_likelihood(
    rho: float, residual: Array, basis: Array, groups: Labels, counts: Labels
) -> tuple[float, float]:
    """Log likelihood (less a constant) and the best variance of points, at rho times it for runs."""

    def solve(columns: Array) -> Array:
        sums = np.zeros((len(counts), *columns.shape[1:]))
        np.add.at(sums, groups, columns)
        share = (rho / (1.0 + rho * counts)).reshape(-1, *[1] * (columns.ndim - 1))
        return columns - (share * sums)[groups]

    weighed = solve(basis)
    inner = basis.T @ weighed
    fitted = np.linalg.solve(inner, weighed.T @ residual)
    left = residual - basis @ fitted
    dof = len(residual) - basis.shape[1]
    scale = float(left @ solve(left)) / dof
    determinants = np.log1p(rho * counts).sum() + np.linalg.slogdet(inner)[1]
    return -0.5 * (dof * math.log(max(scale, 1e-300)) + determinants), scale


def lack_of_fit(groups: Labels, residual: Array, n_parameters: int) -> float | None:
    """p-value of the F test of the law's misfit at each group against the scatter within groups.

    groups: (P,) equal for repeats of one N and D. None without repeats, or with too few groups.
    """
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    pure_dof, misfit_dof = len(residual) - len(names), len(names) - n_parameters
    if not pure_dof or misfit_dof <= 0:
        return None
    mean = np.bincount(inverse, residual) / counts
    pure = float(((residual - mean[inverse]) ** 2).sum()) / pure_dof
    misfit = float((counts * mean**2).sum()) / misfit_dof
    return float(stats.f.sf(misfit / max(pure, 1e-300), misfit_dof, pure_dof))
