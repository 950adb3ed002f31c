"""The law again with one choice changed: objective, exclusions, what N, D and C count.

Every row says as well how far the law misses the largest size when that is held out, so that a reader sees
which choices matter and whether any predicts better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from adit_scale.scaling.laws import HUBER_DELTA, Array, fit_laws, fit_surfaces
from adit_scale.scaling.model_costs import flops_an_atom
from adit_scale.scaling.results import ModelCost, SensitivityRow
from adit_scale.scaling.study_data import Point

# Huber's delta: far below and far above any residual it is the least absolute and the least squares fit.
OBJECTIVES = {
    f"Huber, delta {HUBER_DELTA:g}": HUBER_DELTA,
    "least squares": 10.0,
    "least absolute": 1e-6,
}
MIN_SIZES = 3


@dataclass(frozen=True)
class _Runs:
    """n, d, loss as one choice counts them, each (P,). unique: of d, None where repeats count as new data.
    size: parameters, by which sizes are told apart."""

    n: Array
    d: Array
    loss: Array
    size: Array
    unique: Array | None = None

    def where(self, mask: Array) -> _Runs:
        unique = None if self.unique is None else self.unique[mask]
        return _Runs(self.n[mask], self.d[mask], self.loss[mask], self.size[mask], unique)


@dataclass(frozen=True)
class _Law:
    alpha: float
    beta: float
    offset: float
    log_loss: Callable[[Array, Array, Array | None], Array]


_Fit = Callable[[_Runs, float], _Law]


def size_law_rows(points: Sequence[Point], with_offset: bool) -> list[SensitivityRow]:
    """Of L(N) in the form that was quoted, over its ``points``."""

    def fit(runs: _Runs, delta: float) -> _Law:
        law = fit_laws(runs.n, np.log(runs.loss), with_offset=with_offset, delta=delta).law()
        return _Law(law.exponent, math.nan, law.offset, lambda n, d, unique: np.log(law(n)))

    return _rows(points, _runs(points), fit, 3 if with_offset else 2)


def surface_rows(
    points: Sequence[Point], costs: Sequence[ModelCost], repeats: bool = False
) -> list[SensitivityRow]:
    """Of L(N, D) over its ``points``; D as sets, and C with and without the frozen encoder, besides.

    repeats: the law that was quoted counts effective data.
    """
    base = _runs(points)
    if repeats:
        unique = np.array([p.unique_atoms for p in points], dtype=float)
        base = replace(base, unique=np.where(unique > 0, unique, np.inf))
    rows = _rows(points, base, _fit_surface, 3)
    if all(p.sets_seen > 0 for p in points):
        sets = np.array([p.sets_seen for p in points], dtype=float)
        unique_sets = None if base.unique is None else base.unique * sets / base.d
        counted = replace(base, d=sets, unique=unique_sets)
        rows.append(_row("definition of D", "sets seen", counted, _fit_surface, HUBER_DELTA, 3))
    flops = np.array([p.flops for p in points])
    if costs and (flops > 0).all():
        law = _fit_surface(base, HUBER_DELTA)
        for setting, total in (("denoiser", False), ("denoiser and frozen encoder", True)):
            note = f"N_opt ~ C^{_optimum_exponent(law, costs, base, total):.3f}"
            rows.append(replace(rows[0], what="definition of C", setting=setting, note=note))
    return rows


def _rows(points: Sequence[Point], base: _Runs, fit: _Fit, n_coefficients: int) -> list[SensitivityRow]:
    rows = [_row("objective", name, base, fit, delta, n_coefficients) for name, delta in OBJECTIVES.items()]
    sizes = np.unique(base.size)
    names = {p.n_parameters: p.size for p in points}
    if len(sizes) > max(MIN_SIZES, n_coefficients):
        for word, size in (("smallest", sizes[0]), ("largest", sizes[-1])):
            left = base.where(base.size != size)
            setting = f"without the {word}, {names[int(size)]}"
            row = _row("exclusions", setting, left, fit, HUBER_DELTA, n_coefficients)
            if word == "largest":
                row = replace(
                    row, held_out_error=_miss(fit(left, HUBER_DELTA), base.where(base.size == size))
                )
            rows.append(row)
    if all(p.n_matrix_parameters > 0 for p in points):
        matrices = replace(base, n=np.array([p.n_matrix_parameters for p in points], dtype=float))
        rows.append(
            _row("definition of N", "matrices of the blocks", matrices, fit, HUBER_DELTA, n_coefficients)
        )
    return rows


def _runs(points: Sequence[Point]) -> _Runs:
    n = np.array([p.n_parameters for p in points], dtype=float)
    d = np.array([p.atoms_seen for p in points], dtype=float)
    return _Runs(n, d, np.array([p.final_loss for p in points], dtype=float), n)


def _row(
    what: str, setting: str, runs: _Runs, fit: _Fit, delta: float, n_coefficients: int
) -> SensitivityRow:
    law = fit(runs, delta)
    largest = runs.size == runs.size.max()
    rest = runs.where(~largest)
    error = math.nan
    if len(np.unique(rest.size)) >= max(MIN_SIZES, n_coefficients):
        error = _miss(fit(rest, delta), runs.where(largest))
    return SensitivityRow(what, setting, len(runs.n), law.alpha, law.beta, law.offset, error)


def _miss(law: _Law, runs: _Runs) -> float:
    """Predicted over measured, less 1: geometric mean over runs."""
    return math.expm1(float(np.mean(law.log_loss(runs.n, runs.d, runs.unique) - np.log(runs.loss))))


def _fit_surface(runs: _Runs, delta: float) -> _Law:
    fits = fit_surfaces(runs.n, runs.d, np.log(runs.loss), unique=runs.unique, delta=delta)

    def log_loss(n: Array, d: Array, unique: Array | None) -> Array:
        return np.log(fits.predict(n, d, unique)[0])

    return _Law(float(fits.exponent(0)[0]), float(fits.exponent(1)[0]), float(fits.offset[0]), log_loss)


def _optimum_exponent(law: _Law, costs: Sequence[ModelCost], runs: _Runs, total: bool) -> float:
    """d log N_opt / d log C between the study's least and most compute, at measured FLOPs an atom, of data
    that are all different."""
    flops = runs.d * flops_an_atom(costs, runs.n, total=total)
    ends = [float(flops.min()), float(flops.max())]
    reach = math.log(runs.n.min()) - math.log(100), math.log(runs.n.max()) + math.log(100)

    def best(c: float) -> float:
        def loss(log_n: float) -> float:
            n = np.exp(np.array([log_n]))
            return float(law.log_loss(n, c / flops_an_atom(costs, n, total=total), None)[0])

        return float(minimize_scalar(loss, bounds=reach, method="bounded").x)

    return (best(ends[1]) - best(ends[0])) / math.log(ends[1] / ends[0])
