"""Profile intervals of laws L = E + Σ_t c_t·X_t^-e_t, exact in the linear parameters.

Given the exponents, the law is linear in v = (E, c_1, c_2). With relative residuals, L̂/L - 1 (log residuals
to first order; the next order is half their square, 1e-5 for noise of half a per cent), the weighted sum of
squares S is a quadratic form of v, and its minimum over v ≥ 0 is a closed form. What is left, one search over
one to three exponents, is done on nested grids, many at once: no interval depends on a start.

The set {θ: S(θ) ≤ S_min + q} is projected on the quantity asked for, with q the squared quantile of
Student's t (the F test of one parameter; Bates & Watts, Nonlinear Regression Analysis, 1988, chapter 6). S
is in units of the noise's covariance, so q needs no scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from adit_scale.scaling.solver import (
    EXPONENT_BOUNDS,
    Array,
    Labels,
    inverse_of,
    nonnegative_least_squares,
    subsets,
)

# Distances (in log) at which a profile is first looked at on each side of its minimum, and points between
# two.
STEPS = 0.003 * 2.0 ** np.arange(12)
BETWEEN = np.linspace(0.0, 1.0, 10)
COARSE = {1: 33, 2: 13}  # points a free coordinate in the first look for its best value
# Functionals: columns of the linear parameters' weights at every node, (..., K).
Functional = Callable[[Array], Array]


@dataclass(frozen=True)
class Side:
    """One end of a profile: value of the coordinate; open: the set reaches the bound of its range."""

    value: float
    open: bool


class Profile:
    """The quadratic form of one study.

    coordinates: of nodes (..., m) in log exponents (and log r_star), the x_t (..., T, P) or (T, P).
    loss: (P,). covariance: of the relative residuals, (P, P). bounds: (m, 2) of the nodes, in log.
    """

    def __init__(
        self,
        coordinates: Callable[[Array], Array],
        n_terms: int,
        loss: Array,
        covariance: Array,
        bounds: Array,
    ) -> None:
        self.coordinates, self.n_terms, self.bounds = coordinates, n_terms, bounds
        root = np.linalg.inv(np.linalg.cholesky(covariance))
        self.plain = not np.any(root - np.diag(np.diag(root)))
        # Applied to a column on its right: (..., P) times (P,), or @ (P, P) where points are correlated.
        self.weigh = np.diag(root) / loss if self.plain else (root / loss).T
        self.target = root.sum(axis=1)
        grid = np.stack(np.meshgrid(*self._grids(None), indexing="ij"), axis=-1).reshape(-1, len(bounds))
        start = grid[self.lowest(grid).argmin()]
        self.best, value = self._zoom(lambda u: -self.lowest(u), start[None], self._spans(None))
        self.best, self.minimum = self.best[0], -float(value[0])

    def columns(self, nodes: Array) -> Array:
        """Weighted columns of E, c_1, c_2 at nodes (..., m): (..., K, P)."""
        x = self.coordinates(nodes)
        exponents = np.exp(nodes[..., : self.n_terms])
        terms = np.exp(-exponents[..., None] * x)
        columns = np.concatenate([np.ones_like(terms[..., :1, :]), terms], axis=-2)
        return columns * self.weigh if self.plain else columns @ self.weigh

    def _quadratic(self, nodes: Array) -> tuple[Array, Array, Array]:
        columns = self.columns(nodes)
        return columns, columns @ np.swapaxes(columns, -1, -2), columns @ self.target

    def _misfit(self, v: Array, columns: Array) -> Array:
        """S from the residuals themselves: normal equations alone would lose it to rounding."""
        residual = (v[..., None, :] @ columns)[..., 0, :] - self.target
        return np.einsum("...p,...p->...", residual, residual)

    def solve(self, nodes: Array) -> tuple[Array, Array]:
        """Best v ≥ 0 (..., K) and S (...) at nodes (..., m)."""
        columns, gram, moments = self._quadratic(nodes)
        v, _ = nonnegative_least_squares(gram, moments)
        return v, self._misfit(v, columns)

    def lowest(self, nodes: Array) -> Array:
        return self.solve(nodes)[1]

    def extremes(
        self, nodes: Array, weights: Array, noise: Array | float, limit: Array | float, sign: int
    ) -> Array:
        """Largest (sign 1) or smallest (-1) w·v + e over v ≥ 0 with S(v) + (e/noise)² ≤ limit; -inf where
        none.

        weights: (..., K) at each node. Returned times ``sign``. Every set of free columns is tried: the
        extreme of a linear function over a convex set lies on the ellipsoid of one of them.
        """
        columns, gram, moments = self._quadratic(nodes)
        noise = np.broadcast_to(noise, nodes.shape[:-1])
        every, *fewer = subsets(self.n_terms + 1)
        best, room, inside = self._on_ellipsoid(every, columns, gram, moments, sign * weights, noise, limit)
        # Fewer columns cannot fit better, and matter only where the best of all lies outside v ≥ 0.
        bounded = (room >= 0) & ~inside
        if bounded.any():
            limits = np.broadcast_to(limit, nodes.shape[:-1])[bounded]
            parts = (
                columns[bounded],
                gram[bounded],
                moments[bounded],
                sign * weights[bounded],
                noise[bounded],
            )
            for free in fewer:
                value, _, _ = self._on_ellipsoid(free, *parts, limits)
                best[bounded] = np.maximum(best[bounded], value)
        return best

    def _on_ellipsoid(
        self,
        free: list[int],
        columns: Array,
        gram: Array,
        moments: Array,
        weights: Array,
        noise: Array,
        limit: Array | float,
    ) -> tuple[Array, Array, Labels]:
        """Largest w·v + e with the columns ``free`` alone (-inf where not feasible), limit - S, feasible."""
        inner = inverse_of(gram if len(free) > self.n_terms else gram[..., free, :][..., free])
        w = weights[..., free]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            v = (inner @ moments[..., free, None])[..., 0]
            room = limit - self._misfit(v, columns[..., free, :])
            direction = (inner @ w[..., None])[..., 0]
            spread = (w * direction).sum(axis=-1) + noise**2
            stride = np.where(spread > 0, np.sqrt(room / np.where(spread > 0, spread, 1.0)), 0.0)
            reach = v + direction * stride[..., None]
            value = (w * v).sum(axis=-1) + np.sqrt(room * spread)
            inside = (room >= 0) & (spread >= 0) & (reach >= 0).all(axis=-1)
        return np.where(inside, value, -np.inf), room, inside

    def crossings(self, axis: int, quantile: float, basis: Array | None = None) -> tuple[Side, Side]:
        """Ends of the profile of one coordinate where S passes its minimum by ``quantile``.

        basis: rows are the coordinates to use, as combinations of the nodes' own; the first row replaces
        coordinate ``axis``. Values are those of that coordinate.
        """
        m = len(self.bounds)
        turn: Array = np.eye(m) if basis is None else basis
        back = np.linalg.inv(turn).astype(np.float64)
        centre: Array = turn @ self.best
        corners = np.array([turn[axis] @ np.array(c) for c in product(*self.bounds)])
        ends = corners.min(), corners.max()
        others = [i for i in range(m) if i != axis]

        def profile(values: Array) -> Array:
            return self._profile(values, axis, others, back, centre)

        return self._side(profile, centre[axis], quantile, -1, ends[0]), self._side(
            profile, centre[axis], quantile, 1, ends[1]
        )

    def _side(
        self, profile: Callable[[Array], Array], centre: float, quantile: float, sign: int, end: float
    ) -> Side:
        far = np.append(centre + sign * STEPS, end)
        far = far[sign * (end - far) >= 0]
        above = profile(far) - self.minimum > quantile
        if not above.any():
            return Side(end, True)
        outer = far[above.argmax()]
        inner = centre if above.argmax() == 0 else far[above.argmax() - 1]
        grid = inner + BETWEEN * (outer - inner)
        root = np.sqrt(np.maximum(profile(grid) - self.minimum, 0.0)) - np.sqrt(quantile)
        k = max(int((root > 0).argmax()), 1)
        share = -root[k - 1] / (root[k] - root[k - 1])
        return Side(float(grid[k - 1] + np.clip(share, 0.0, 1.0) * (grid[k] - grid[k - 1])), False)

    def _profile(self, values: Array, axis: int, others: list[int], back: Array, centre: Array) -> Array:
        """Smallest S at each value (Q,) of one coordinate."""
        full = np.tile(centre, (len(values), 1))
        full[:, axis] = values
        if not others:
            return self.lowest(full @ back.T)
        grids = [
            g - c for i, (g, c) in enumerate(zip(self._grids(None), self.best, strict=True)) if i != axis
        ]
        offsets = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(others))
        nodes = np.repeat(full[:, None], len(offsets) + 1, axis=1)
        nodes[:, 1:, others] += offsets  # the first node keeps the best fit's own values

        def score(u: Array) -> Array:
            inner = u @ back.T
            out = ((inner < self.bounds[:, 0]) | (inner > self.bounds[:, 1])).any(axis=-1)
            return np.where(out, -np.inf, -self.lowest(np.clip(inner, *self.bounds.T)))

        start = nodes[np.arange(len(values)), score(nodes).argmax(axis=1)]
        spans = self._spans(axis)
        return -self._zoom(score, start, spans, rounds=6, clip=False)[1]

    def functional(
        self, weights: Functional, noise: Array, quantile: Array | float, box: Array
    ) -> tuple[Array, Array]:
        """Smallest and largest of Q functionals over the set S ≤ minimum + quantile.

        weights: of nodes (Q, J, m), the (Q, J, K) of each functional. noise: (Q,) standard deviation of what
        is measured with the functional, 0 for the law's own. box: (m, 2) that holds the set.
        """
        limit = np.broadcast_to(self.minimum + quantile, noise.shape)[:, None]
        count = 7 if len(box) < 3 else 5
        axes = [
            np.append(np.linspace(row[0], row[1], count), b) for row, b in zip(box, self.best, strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(box))
        grid = np.tile(grid, (len(noise), 1, 1))
        ends = []
        for sign in (-1, 1):

            def score(u: Array, sign: int = sign) -> Array:
                return self.extremes(u, weights(u), noise[:, None], limit, sign)

            start = grid[np.arange(len(noise)), score(grid).argmax(axis=1)]
            span = (box[:, 1] - box[:, 0]) / (count - 1)
            _, value = self._zoom(score, start, span, shrink=0.62, rounds=14, count=5)
            ends.append(sign * value)
        return ends[0], ends[1]

    def _grids(self, axis: int | None) -> list[Array]:
        count = COARSE.get(len(self.bounds) - (axis is not None), COARSE[2])
        return [np.linspace(row[0], row[1], count) for i, row in enumerate(self.bounds) if i != axis]

    def _spans(self, axis: int | None) -> Array:
        """Distances between neighbours of the coarse grid, 0 for the coordinate held."""
        count = len(self._grids(axis)[0]) if len(self.bounds) > (axis is not None) else 2
        span = (self.bounds[:, 1] - self.bounds[:, 0]) / (count - 1)
        if axis is not None:
            span[axis] = 0.0
        return span

    def _zoom(
        self,
        score: Callable[[Array], Array],
        start: Array,
        span: Array,
        shrink: float = 0.36,
        rounds: int = 9,
        count: int = 7,
        clip: bool = True,
    ) -> tuple[Array, Array]:
        """Maximise ``score`` of nodes (Q, J, m) from start (Q, m): grids around the best, ever finer."""
        steps = [np.linspace(-1, 1, count) if s > 0 else np.zeros(1) for s in span]
        offsets = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, len(span)) * span
        index = np.arange(len(start))
        for _ in range(rounds):
            nodes = start[:, None] + offsets
            if clip:
                nodes = np.clip(nodes, *self.bounds.T)
            value = score(nodes)
            best = value.argmax(axis=1)
            start, offsets = nodes[index, best], offsets * shrink
        return start, value[index, best]


def exponent_bounds(n_terms: int, more: Sequence[tuple[float, float]] = ()) -> Array:
    """Bounds of nodes, in log: of each exponent, and of further coordinates given as they are."""
    return np.log(np.array([EXPONENT_BOUNDS] * n_terms + list(more)))
