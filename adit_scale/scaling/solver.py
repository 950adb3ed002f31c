"""Least Huber fits of L = E + Σ_t c_t·X_t^-e_t (one or two power terms), for many resamples at once.

The objective is the sum (not the mean: tolerances of optimisers are absolute) over runs of the Huber loss of
log L̂ - log L with δ = 1e-3, as in Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.2). Starts come from
variable projection: for each exponent (or pair) of a grid, E and c ≥ 0 follow by non-negative least squares
in closed form. Each resample is then refined from its best starts by damped Gauss-Newton steps with analytic
derivatives, reweighted for the Huber loss, so no random start and no numeric gradient is involved.

Parameters of a row are θ = (log E, log c_1, e_1, log c_2, e_2), K = 1 + 2T numbers for T terms; c_t belongs
to the coordinates x_t as given (centred log N and log D, so that c and e are nearly uncorrelated).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[Any]  # of points: equal where two belong together; or masks

HUBER_DELTA = 1e-3
EXPONENT_BOUNDS = (1e-3, 5.0)  # of laws with an offset; without one the exponent is free, also below 0
# Exponents of the starts, for one term and for two (whose grid is their square).
GRIDS = {1: np.geomspace(0.01, 3.0, 120), 2: np.geomspace(0.02, 2.0, 24)}
MAX_STEPS = 300
# An offset or a term this far below the smallest loss (in log) is zero for every purpose.
LOG_FLOOR = -20.0


def huber(residual: Array, delta: float = HUBER_DELTA) -> Array:
    """Elementwise Huber loss: r²/2 inside δ, δ(|r| - δ/2) outside."""
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return inside * (size - 0.5 * inside)


def fit_rows(
    x: Array,
    log_loss: Array,
    *,
    delta: float = HUBER_DELTA,
    starts: Array | None = None,
    n_starts: int = 3,
    tolerance: float = 1e-11,
) -> tuple[Array, Array]:
    """Fit one law to each row of ``log_loss``.

    x: (T, P), or (R, T, P) with coordinates of each row's own. log_loss: (R, P), finite. starts: more starts,
    (S, K), shared by all rows. n_starts: how many blocks of the grid of exponents give their best start.
    Returns θ (R, K) and the objective (R,).
    """
    assert np.isfinite(log_loss).all()
    rows = len(log_loss)
    blocks = [projected_starts(x, log_loss, n_starts)] if n_starts else []
    if starts is not None:
        blocks.append(np.broadcast_to(starts[:, None, :], (len(starts), rows, starts.shape[1])))
    candidates = np.concatenate(blocks)
    count, width = len(candidates), candidates.shape[-1]
    every = np.tile(x, (count, 1, 1)) if x.ndim == 3 else x
    target = np.tile(log_loss, (count, 1))
    theta, objective = refine(candidates.reshape(-1, width), every, target, delta, tolerance=tolerance)
    objective = objective.reshape(count, rows)
    best = objective.argmin(axis=0)
    index = np.arange(rows)
    return theta.reshape(count, rows, width)[best, index], objective[best, index]


def log_terms(theta: Array, x: Array) -> Array:
    """log of each power term, (B, T, P)."""
    return theta[:, 1::2, None] - theta[:, 2::2, None] * x


def log_law(theta: Array, x: Array) -> Array:
    """log L̂, (B, P)."""
    terms = log_terms(theta, x)
    fitted = np.logaddexp(theta[:, :1], terms[:, 0])
    return fitted if terms.shape[1] == 1 else np.logaddexp(fitted, terms[:, 1])


def projected_starts(x: Array, log_loss: Array, n_starts: int) -> Array:
    """Variable projection over the grid of exponents: the best start of each of its blocks, (S, R, K).

    Blocks part the first exponent. Residuals are relative, (L̂ - L)/L: log residuals to first order.
    """
    n_terms = x.shape[-2]
    grid = GRIDS[n_terms]
    # 1/L in units of the row's smallest loss, so that no resample can overflow a product.
    lowest = log_loss.min(axis=1)
    inverse = np.exp(lowest[:, None] - log_loss)
    gram, moments = _grid_moments(x, inverse, grid)
    coefficients, misfit = nonnegative_least_squares(gram, moments)
    misfit = misfit.reshape(len(log_loss), len(grid), -1)  # less Σ 1, the same at every node
    columns = np.meshgrid(*[grid] * n_terms, indexing="ij")
    flat = np.stack([c.ravel() for c in columns], axis=-1)
    starts = []
    index = np.arange(len(log_loss))
    for block in np.array_split(np.arange(len(grid)), n_starts):
        part = misfit[:, block].reshape(len(log_loss), -1)
        node = block[0] * misfit.shape[2] + part.argmin(axis=1)
        with np.errstate(divide="ignore"):
            logs = np.log(coefficients[index, node]) + lowest[:, None]
        logs = np.maximum(logs, (lowest + LOG_FLOOR)[:, None])
        theta = np.empty((len(log_loss), 1 + 2 * n_terms))
        theta[:, 0], theta[:, 1::2], theta[:, 2::2] = logs[:, 0], logs[:, 1:], flat[node]
        starts.append(theta)
    return np.stack(starts)


def _grid_moments(x: Array, inverse: Array, grid: Array) -> tuple[Array, Array]:
    """Gram matrices (R, G, K, K) and moments with 1 (R, G, K) of the columns 1/L, X_t^-e/L at all nodes."""
    n_terms, size = x.shape[-2], len(grid)
    shape = (len(inverse), *[size] * n_terms)
    square = inverse**2
    gram, moments = np.empty((*shape, n_terms + 1, n_terms + 1)), np.empty((*shape, n_terms + 1))
    powers = [np.exp(-grid[:, None] * x[..., t, None, :]) for t in range(n_terms)]  # (G, P) or (R, G, P)
    gram[..., 0, 0] = square.sum(axis=1).reshape(-1, *[1] * n_terms)
    moments[..., 0] = inverse.sum(axis=1).reshape(-1, *[1] * n_terms)
    for t, power in enumerate(powers):
        along = [size if axis == t else 1 for axis in range(n_terms)]
        first, second, one = (
            np.einsum("...gp,...p->...g", p, w) if power.ndim == 3 else w @ p.T
            for p, w in ((power, square), (power**2, square), (power, inverse))
        )
        gram[..., 0, t + 1] = gram[..., t + 1, 0] = first.reshape(-1, *along)
        gram[..., t + 1, t + 1] = second.reshape(-1, *along)
        moments[..., t + 1] = one.reshape(-1, *along)
    if n_terms == 2:
        if x.ndim == 3:
            cross = np.einsum("rgp,rhp,rp->rgh", powers[0], powers[1], square, optimize=True)
        else:
            both = (powers[0][:, None] * powers[1][None]).reshape(size * size, -1)
            cross = (square @ both.T).reshape(shape)
        gram[..., 1, 2] = gram[..., 2, 1] = cross
    nodes = (len(inverse), size**n_terms)
    return gram.reshape(*nodes, n_terms + 1, n_terms + 1), moments.reshape(*nodes, n_terms + 1)


def subsets(size: int) -> list[list[int]]:
    """All non-empty sets of free columns, the full one first."""
    return [list(s) for k in range(size, 0, -1) for s in combinations(range(size), k)]


def inverse_of(gram: Array) -> Array:
    """Inverses (..., k, k) of symmetric matrices, k ≤ 3, in closed form; inf or NaN where singular."""
    k = gram.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if k == 1:
            return 1.0 / gram
        a, b, d = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
        if k == 2:
            determinant = a * d - b * b
            rows = [d, -b, -b, a]
        else:
            c, e, f = gram[..., 0, 2], gram[..., 1, 2], gram[..., 2, 2]
            m00, m01, m02 = d * f - e * e, c * e - b * f, b * e - c * d
            determinant = a * m00 + b * m01 + c * m02
            m12 = b * c - a * e
            rows = [m00, m01, m02, m01, a * f - c * c, m12, m02, m12, a * d - b * b]
        return np.stack(rows, axis=-1).reshape(gram.shape) / determinant[..., None, None]


def nonnegative_least_squares(gram: Array, moments: Array) -> tuple[Array, Array]:
    """argmin over v ≥ 0 of v'Gv - 2 m'v, and its value, for G (..., K, K), m (..., K), K ≤ 3.

    Closed form: the best of all sets of free columns whose solution is feasible.
    """
    shape, width = moments.shape, moments.shape[-1]
    gram, moments = gram.reshape(-1, width, width), moments.reshape(-1, width)
    best, solution = np.zeros(len(moments)), np.zeros(moments.shape)
    left = np.arange(len(moments))  # where the solution with all columns free is not feasible
    for free in subsets(width):
        here = gram if len(free) == width else gram[left][:, free][:, :, free]
        m = moments if len(free) == width else moments[left][:, free]
        with np.errstate(invalid="ignore", over="ignore"):
            v = (inverse_of(here) @ m[..., None])[..., 0]
            value = -(v * m).sum(axis=-1)
            better = (v >= 0).all(axis=-1) & (value < best[left])
        rows = left[better]
        best[rows] = value[better]
        full = np.zeros((len(rows), width))
        full[:, free] = v[better]
        solution[rows] = full
        if len(free) == width:
            left = left[~better]
        if not len(left):
            break
    return solution.reshape(shape), best.reshape(shape[:-1])


def refine(
    theta: Array,
    x: Array,
    target: Array,
    delta: float,
    *,
    with_offset: bool = True,
    tolerance: float = 1e-11,
) -> tuple[Array, Array]:
    """Damped, reweighted Gauss-Newton on θ (B, K) of every row, each until it no longer moves."""
    theta = theta.copy()
    first = 0 if with_offset else 1
    floor = (target.min(axis=1) + LOG_FLOOR)[:, None]
    objective = huber(log_law(theta, x) - target, delta).sum(axis=1)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        now, goal = theta[active], target[active]
        here = x[active] if x.ndim == 3 else x
        gradient, hessian = normal_equations(now, here, goal, delta)
        diagonal = np.einsum("bii->bi", hessian)
        hessian = (
            hessian
            + np.eye(theta.shape[1]) * (damping[active, None] * np.maximum(diagonal, 1e-12))[:, None, :]
        )
        step = np.zeros_like(now)
        step[:, first:] = np.linalg.solve(hessian[:, first:, first:], gradient[:, first:, None])[..., 0]
        proposal = now - np.clip(step, -2.0, 2.0)
        if with_offset:
            proposal[:, :1] = np.maximum(proposal[:, :1], floor[active])
            proposal[:, 1::2] = np.maximum(proposal[:, 1::2], floor[active])
            proposal[:, 2::2] = np.clip(proposal[:, 2::2], *EXPONENT_BOUNDS)
        value = huber(log_law(proposal, here) - goal, delta).sum(axis=1)
        better = value < objective[active]
        settled = objective[active] - value <= tolerance * objective[active] + 1e-18
        theta[active[better]] = proposal[better]
        objective[active[better]] = value[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.3, 8.0), 1e-12, 1e9)
        active = active[~(settled & (better | (damping[active] > 1e6)))]
    return theta, objective


def normal_equations(theta: Array, x: Array, target: Array, delta: float) -> tuple[Array, Array]:
    """Gradient (B, K) and reweighted Gauss-Newton matrix (B, K, K) of the summed Huber loss."""
    terms = log_terms(theta, x)
    fitted = log_law(theta, x)
    residual = fitted - target
    jacobian = np.empty((*fitted.shape[:1], theta.shape[1], fitted.shape[1]))
    jacobian[:, 0] = np.exp(theta[:, :1] - fitted)
    jacobian[:, 1::2] = np.exp(terms - fitted[:, None])
    jacobian[:, 2::2] = -jacobian[:, 1::2] * x
    weight = np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
    weighted = jacobian * weight[:, None]
    return (weighted @ residual[..., None])[..., 0], weighted @ jacobian.transpose(0, 2, 1)
