"""Fitted power laws of loss: L(N) = E + A·N^-α and L(N, D) = E + A·N^-α + B·D^-β, one or many at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adit_scale.scaling.solver import HUBER_DELTA, Array, fit_rows, refine

# Epochs beyond the first after which repeated data are used up; at the upper bound repeats are as good as
# new.
R_STAR_BOUNDS = (0.2, 1e4)
REPEAT_ROUNDS = 12  # of the search for r_star, each finer than the last


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


def fit_laws(n: Array, log_loss: Array, *, with_offset: bool, delta: float = HUBER_DELTA) -> LawDraws:
    """Fit one law L(N) to each row of ``log_loss`` by least Huber (solver.py).

    n: parameters of the P runs, (P,). log_loss: natural log of their losses, (R, P), finite.
    """
    n = np.asarray(n, dtype=float)
    log_loss = np.atleast_2d(np.asarray(log_loss, dtype=float))
    assert log_loss.shape[1] == len(n)
    assert np.isfinite(log_loss).all()
    reference = float(np.log(n).mean())
    x = np.log(n) - reference
    if with_offset:
        theta, objective = fit_rows(x[None], log_loss, delta=delta)
        return LawDraws(np.exp(theta[:, 0]), theta[:, 1], theta[:, 2], objective, reference)
    slope = log_loss @ x / max(float(x @ x), 1e-300)  # least squares of log L on log N, as start
    start = np.stack([np.full_like(slope, -np.inf), log_loss.mean(axis=1), -slope], axis=-1)
    theta, objective = refine(start, x[None], log_loss, delta, with_offset=False)
    return LawDraws(np.zeros(len(theta)), theta[:, 1], theta[:, 2], objective, reference)


@dataclass(frozen=True)
class SurfaceDraws:
    """R fitted surfaces: E, A, α, B, β, each (R,), with A and B in log at the references (log N, log D).

    log_r_star: (R,) for the form with repeats, else None.
    """

    theta: Array  # (R, 5): log E, log A', α, log B', β
    reference: tuple[float, float]
    log_r_star: Array | None = None

    @property
    def offset(self) -> Array:
        return np.exp(self.theta[:, 0])

    def scale(self, t: int) -> Array:
        """A (t = 0) or B (t = 1), referred to N = 1 or D = 1. May overflow to inf."""
        with np.errstate(over="ignore"):
            return np.exp(self.theta[:, 1 + 2 * t] + self.theta[:, 2 + 2 * t] * self.reference[t])

    def exponent(self, t: int) -> Array:
        return self.theta[:, 2 + 2 * t]

    def predict(self, n: Array, d: Array, unique: Array | None = None) -> Array:
        """L̂ (R, P) at n, d (P,)."""
        r_star = None if self.log_r_star is None else np.exp(self.log_r_star)[:, None]
        log_d = log_effective(np.asarray(d, dtype=float), unique, r_star)
        first = self.theta[:, 1:2] - self.theta[:, 2:3] * (np.log(n) - self.reference[0])
        second = self.theta[:, 3:4] - self.theta[:, 4:5] * (log_d - self.reference[1])
        return self.offset[:, None] + np.exp(first) + np.exp(second)


def log_effective(d: Array, unique: Array | None, r_star: Array | float | None) -> Array:
    """log of the effective data of D atoms of which U are different (arXiv 2305.16264, equation 5).

    D_eff = U + U·R*·(1 - exp(-(D/U - 1)/R*)) for D > U, else D. R* epochs beyond the first are worth 1 - 1/e
    of new data. All arguments broadcast. Without r_star or unique, log D.
    """
    if r_star is None or unique is None:
        return np.log(d)
    repeats = np.maximum(d / unique - 1.0, 0.0)
    return np.log(np.minimum(d, unique)) + np.log1p(-r_star * np.expm1(-repeats / r_star))


def fit_surfaces(
    n: Array,
    d: Array,
    log_loss: Array,
    *,
    unique: Array | None = None,
    delta: float = HUBER_DELTA,
    starts: Array | None = None,
    n_starts: int = 5,
    tolerance: float = 1e-11,
    r_star: tuple[float, float] = R_STAR_BOUNDS,
) -> SurfaceDraws:
    """Fit one surface L(N, D) to each row of ``log_loss`` (R, P) by least Huber (solver.py).

    n, d: (P,). unique: (P,) atoms of each run's data that are different, for the form with repeats. starts:
    further starts (S, 5) for every row. n_starts: of the grid, 0 for none. r_star: range to begin in.
    """
    log_loss = np.atleast_2d(np.asarray(log_loss, dtype=float))
    reference = (float(np.log(n).mean()), float(np.log(d).mean()))
    if unique is None:
        x = np.stack([np.log(n) - reference[0], np.log(d) - reference[1]])
        theta, _ = fit_rows(x, log_loss, delta=delta, starts=starts, n_starts=n_starts, tolerance=tolerance)
        return SurfaceDraws(theta, reference)
    grid = np.linspace(np.log(r_star[0]), np.log(r_star[1]), 12 if n_starts else 4)
    fits = []
    for value in grid:
        x = np.stack([np.log(n) - reference[0], log_effective(d, unique, np.exp(value)) - reference[1]])
        fits.append(fit_rows(x, log_loss, delta=delta, starts=starts, n_starts=n_starts, tolerance=1e-7))
    objective = np.stack([f[1] for f in fits])
    best, rows = objective.argmin(axis=0), np.arange(len(log_loss))
    theta, lowest = np.stack([f[0] for f in fits])[best, rows], objective[best, rows]
    log_r, step = grid[best], grid[1] - grid[0]
    for _ in range(REPEAT_ROUNDS):
        centre = log_r
        for offset in (-0.5 * step, 0.5 * step):
            tried = np.clip(centre + offset, *np.log(R_STAR_BOUNDS))
            second = log_effective(d, unique, np.exp(tried)[:, None]) - reference[1]
            x = np.stack([np.broadcast_to(np.log(n) - reference[0], second.shape), second], axis=1)
            moved, value = refine(theta, x, log_loss, delta, tolerance=max(tolerance, 1e-9))
            better = value < lowest
            theta = np.where(better[:, None], moved, theta)
            log_r, lowest = np.where(better, tried, log_r), np.where(better, value, lowest)
        step *= 0.6
    return SurfaceDraws(theta, reference, log_r)
