"""Least Huber fits of L(N) = E + A·N^-α, for many resamples of one study at once.

The objective is the sum (not the mean: tolerances of optimisers are absolute) over runs of the Huber loss of
log L̂ − log L with δ = 1e-3, as in Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.2). Starts come from
variable projection: for each α of a grid, E and A ≥ 0 follow by non-negative least squares in closed form.
Each resample is then refined from its best starts by damped Gauss-Newton steps with analytic derivatives,
reweighted for the Huber loss, so no random start and no numeric gradient is involved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HUBER_DELTA = 1e-3
EXPONENT_GRID = np.geomspace(0.01, 3.0, 120)
EXPONENT_BOUNDS = (1e-3, 5.0)  # with an offset; without one the exponent is free, also below 0
N_STARTS = 3
MAX_STEPS = 300
# An offset this far below the smallest loss (in log) is zero for every purpose.
LOG_OFFSET_FLOOR = -20.0


@dataclass(frozen=True)
class PowerLaw:
    """L(N) = offset + scale · N^-exponent (E, A, α); offset is 0 in the two-parameter law."""

    offset: float
    scale: float
    exponent: float

    def __call__(self, n: Array | float) -> Array:
        return self.offset + self.scale * np.asarray(n, dtype=float) ** -self.exponent


@dataclass(frozen=True)
class LawDraws:
    """R fitted laws over one design: offset (R,), log_scale (R,) at ``log_n_reference``, exponent (R,)."""

    offset: Array
    log_scale: Array
    exponent: Array
    objective: Array
    log_n_reference: float

    @property
    def scale(self) -> Array:
        """A (R,), referred to N = 1. May overflow to inf for steep laws."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_scale + self.exponent * self.log_n_reference)

    def predict(self, n: Array) -> Array:
        """L̂ (R, len(n))."""
        x = np.log(np.atleast_1d(n)) - self.log_n_reference
        with np.errstate(over="ignore"):
            return self.offset[:, None] + np.exp(self.log_scale[:, None] - self.exponent[:, None] * x)

    def law(self, index: int = 0) -> PowerLaw:
        return PowerLaw(float(self.offset[index]), float(self.scale[index]), float(self.exponent[index]))


def huber(residual: Array, delta: float = HUBER_DELTA) -> Array:
    """Elementwise Huber loss: r²/2 inside δ, δ(|r| − δ/2) outside."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def fit_laws(n: Array, log_loss: Array, *, with_offset: bool, delta: float = HUBER_DELTA) -> LawDraws:
    """Fit one law to each row of ``log_loss``.

    n: parameters of the P runs, (P,). log_loss: natural log of their losses, (R, P), finite.
    """
    n = np.asarray(n, dtype=float)
    log_loss = np.atleast_2d(np.asarray(log_loss, dtype=float))
    assert log_loss.shape[1] == len(n)
    assert np.isfinite(log_loss).all()
    reference = float(np.log(n).mean())
    x = np.log(n) - reference  # centred, so that scale and exponent are nearly uncorrelated
    starts = _projected_starts(x, log_loss, delta) if with_offset else _straight_starts(x, log_loss)
    n_starts = len(starts)
    theta = starts.reshape(-1, 3)
    target = np.tile(log_loss, (n_starts, 1))
    theta, objective = _refine(theta, x, target, with_offset, delta)
    best = objective.reshape(n_starts, -1).argmin(axis=0)
    rows = np.arange(log_loss.shape[0])
    theta = theta.reshape(n_starts, -1, 3)[best, rows]
    offset = np.exp(theta[:, 0]) if with_offset else np.zeros(len(rows))
    return LawDraws(offset, theta[:, 1], theta[:, 2], objective.reshape(n_starts, -1)[best, rows], reference)


def _straight_starts(x: Array, log_loss: Array) -> Array:
    """Ordinary least squares of log L on log N: (1, R, 3) with an offset of zero."""
    slope = log_loss @ x / max(float(x @ x), 1e-300)
    return np.stack([np.full_like(slope, -np.inf), log_loss.mean(axis=1), -slope], axis=-1)[None]


def _projected_starts(x: Array, log_loss: Array, delta: float) -> Array:
    """Variable projection over the exponent grid: the best start of each third of the grid, (N_STARTS, R, 3).

    Residuals are relative, (L̂ − L)/L, which is the log residual to first order.
    """
    lowest = log_loss.min(axis=1)
    # (R, P): column of E, in units of the row's smallest loss, so that no resample can overflow a product.
    inverse = np.exp(lowest[:, None] - log_loss)
    log_floor = lowest + LOG_OFFSET_FLOOR
    thetas, objectives = [], []
    for exponent in EXPONENT_GRID:
        power = np.exp(-exponent * x) * inverse  # column of A
        offset, scale = _nonnegative_pair(inverse, power)
        with np.errstate(divide="ignore"):
            log_offset = np.maximum(np.log(offset) + lowest, log_floor)
            log_scale = np.maximum(np.log(scale) + lowest, log_floor)
        theta = np.stack([log_offset, log_scale, np.full_like(log_scale, exponent)], axis=-1)
        thetas.append(theta)
        objectives.append(huber(_log_law(theta, x) - log_loss, delta).sum(axis=1))
    grid, value = np.stack(thetas), np.stack(objectives)
    starts = []
    for part in np.array_split(np.arange(len(EXPONENT_GRID)), N_STARTS):
        best = part[value[part].argmin(axis=0)]
        starts.append(grid[best, np.arange(log_loss.shape[0])])
    return np.stack(starts)


def _nonnegative_pair(u: Array, v: Array) -> tuple[Array, Array]:
    """argmin over E, A ≥ 0 of Σ (E·u + A·v − 1)² for each row; closed form of two-column NNLS."""
    uu, vv, uv = (u * u).sum(1), (v * v).sum(1), (u * v).sum(1)
    u1, v1 = u.sum(1), v.sum(1)
    determinant = np.maximum(uu * vv - uv * uv, 1e-300)
    first = (u1 * vv - v1 * uv) / determinant
    second = (v1 * uu - u1 * uv) / determinant
    # Where one is negative the optimum has it at zero: u and v are positive columns.
    only_second, only_first = first < 0, second < 0
    first = np.where(only_second, 0.0, np.where(only_first, u1 / uu, first))
    second = np.where(only_first & ~only_second, 0.0, np.where(only_second, v1 / vv, second))
    return first, second


def _log_law(theta: Array, x: Array) -> Array:
    return np.logaddexp(theta[:, :1], theta[:, 1:2] - theta[:, 2:3] * x)


def _refine(theta: Array, x: Array, target: Array, with_offset: bool, delta: float) -> tuple[Array, Array]:
    """Damped, reweighted Gauss-Newton on (log E, log A, α) of every row, each until it no longer moves."""
    first = 0 if with_offset else 1
    floor = target.min(axis=1) + LOG_OFFSET_FLOOR
    objective = huber(_log_law(theta, x) - target, delta).sum(axis=1)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        now, goal = theta[active], target[active]
        gradient, hessian = _normal_equations(now, x, goal, delta)
        diagonal = np.einsum("bii->bi", hessian)
        hessian = hessian + np.eye(3) * (damping[active, None] * np.maximum(diagonal, 1e-12))[:, None, :]
        step = np.zeros_like(now)
        step[:, first:] = np.linalg.solve(hessian[:, first:, first:], gradient[:, first:, None])[..., 0]
        proposal = now - np.clip(step, -2.0, 2.0)
        if with_offset:
            proposal[:, 0] = np.maximum(proposal[:, 0], floor[active])
            proposal[:, 1] = np.maximum(proposal[:, 1], floor[active])
            proposal[:, 2] = np.clip(proposal[:, 2], *EXPONENT_BOUNDS)
        value = huber(_log_law(proposal, x) - goal, delta).sum(axis=1)
        better = value < objective[active]
        settled = objective[active] - value <= 1e-11 * objective[active] + 1e-18
        theta[active[better]] = proposal[better]
        objective[active[better]] = value[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.3, 8.0), 1e-12, 1e9)
        active = active[~(settled & (better | (damping[active] > 1e6)))]
    return theta, objective


def _normal_equations(theta: Array, x: Array, target: Array, delta: float) -> tuple[Array, Array]:
    """Gradient (B, 3) and reweighted Gauss-Newton matrix (B, 3, 3) of the summed Huber loss."""
    fitted = _log_law(theta, x)
    residual = fitted - target
    share_of_power = np.exp(theta[:, 1:2] - theta[:, 2:3] * x - fitted)
    jacobian = np.stack([1.0 - share_of_power, share_of_power, -share_of_power * x], axis=-1)
    weight = np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
    weighted = jacobian * weight[..., None]
    return np.einsum("bpi,bp->bi", weighted, residual), np.einsum("bpi,bpj->bij", weighted, jacobian)
