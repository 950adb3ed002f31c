"""IsoFLOP profiles: at each budget the size of least loss, and how it grows with compute.

The second approach of Hoffmann et al. 2022 (arXiv 2203.15556): around a budget's optimum log L is a parabola
in log10 N. On wide grids that is biased (losses rise unevenly on both sides), so the window is stated and
what other windows give stands beside it.

Runs of one budget differ a little in C, since steps are reckoned for sets of one nominal size. A loss is
moved to the budget along the slope of the budgets' lowest losses in log C: by the envelope theorem that is,
at the optimum, the slope at fixed N as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from adit_scale.errors import DataError
from adit_scale.scaling.isoflop_budgets import MIN_SIZES, Budget, find_budgets
from adit_scale.scaling.laws import Array
from adit_scale.scaling.model_costs import flops_an_atom, model_costs
from adit_scale.scaling.parabolas import ParabolaNoise, monotonic_estimate, vertex, vertex_draws
from adit_scale.scaling.results import (
    Estimate,
    IsoflopFit,
    ModelCost,
    Parabola,
    SeedNoise,
    WindowRow,
)
from adit_scale.scaling.study_data import Point

WINDOW = 10.0
WINDOWS = (3.0, WINDOW, math.inf)
# Optima of two windows that differ by more than this make a warning.
WINDOW_SHIFT = 1.25
MISFIT_P = 0.01


def fit_isoflop(
    points: Sequence[Point],
    *,
    seed_noise: SeedNoise | None = None,
    window: float = WINDOW,
    bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> IsoflopFit:
    """Parabolas of all budgets among finished, comparable ``points``, their optima and power laws.

    window: factor in N each side of a budget's lowest loss; at least four sizes are taken. Intervals come
    from a parametric bootstrap with the seeds' noise, or with the scatter about the parabolas where there
    are no seeds or where it is larger than theirs; they do not hold the parabola's own bias.
    Raises DataError where no budget has four sizes.
    """
    budgets = find_budgets(points)
    if not any(b.n_sizes >= MIN_SIZES for b in budgets):
        raise DataError(
            f"no budget has {MIN_SIZES} sizes at equal FLOPs (within 15%) among {len(points)} runs; "
            "sweep=isoflop makes them"
        )
    costs = model_costs(points)
    sigma, dof, noise_text, warnings = _measured_noise(budgets, window, seed_noise)
    noise = ParabolaNoise.of(sigma, dof, bootstrap, seed, confidence)
    fits = [_parabola(budget, window, costs, noise) for budget in budgets]
    windows = [_window_row(budgets, factor) for factor in sorted({*WINDOWS, window})]
    warnings += _window_warnings(budgets, windows)
    found = [(parabola, draws) for parabola, draws in fits if draws is not None]
    if len(found) < 2:
        warnings.append(f"{len(found)} of {len(budgets)} budgets have an optimum: no power law of N_opt")
    elif len(found) == 2:
        warnings.append("two optima make a power law without a check")
    fit = IsoflopFit(
        parabolas=[parabola for parabola, _ in fits],
        window_text=_window_text(window),
        warnings=warnings,
        windows=windows,
        noise_text=noise_text,
    )
    return _with_power_laws(fit, found, costs, noise) if len(found) > 1 else fit


def _measured_noise(
    budgets: Sequence[Budget], window: float, seed_noise: SeedNoise | None
) -> tuple[float, float, str, list[str]]:
    """sigma and its degrees of freedom, the same in words, and warnings."""
    squares, dof = 0.0, 0
    for budget in budgets:
        if budget.n_sizes >= MIN_SIZES:
            inside = budget.window(window)
            fitted = np.polyval(budget.parabola(window)[::-1], budget.x[inside] - budget.centre)
            squares += float(((fitted - budget.y[inside]) ** 2).sum())
            dof += int(inside.sum()) - 3
    scatter = math.sqrt(squares / dof)  # a parabola of four sizes leaves at least one degree of freedom
    about = f"scatter of {scatter:.2g} in log loss about the parabolas ({dof} degrees of freedom)"
    if seed_noise is None:
        return scatter, dof, f"{about}; no seeds", []
    sigma = seed_noise.sigma.value
    if stats.f.sf((scatter / max(sigma, 1e-300)) ** 2, dof, seed_noise.dof) < MISFIT_P:
        warning = (
            f"runs miss their parabolas by {scatter:.2g} in log loss, seeds differ by {sigma:.2g}: "
            "the shape is no parabola within this window, or budgets mix recipes"
        )
        return scatter, dof, f"{about}, larger than the seeds'", [warning]
    text = f"seed-to-seed noise of {sigma:.2g} in log loss ({seed_noise.dof} degrees of freedom)"
    return sigma, seed_noise.dof, text, []


def _parabola(
    budget: Budget, window: float, costs: Sequence[ModelCost], noise: ParabolaNoise
) -> tuple[Parabola, Array | None]:
    """One budget's parabola with its optimum, and draws (R,) of the optimum's log10 N; None without one."""
    inside = budget.window(window)
    parabola = Parabola(
        flops=budget.flops,
        n=[float(p.n_parameters) for p in budget.points],
        loss=np.exp(budget.y).tolist(),
        labels=[p.label for p in budget.points],
        in_window=inside.tolist(),
        coefficients=None,
    )
    if budget.n_sizes < MIN_SIZES:
        return replace(parabola, note=f"{budget.n_sizes} sizes; a parabola takes {MIN_SIZES}"), None
    centred = budget.parabola(window)
    parabola = replace(parabola, coefficients=_about_zero(centred, budget.centre))
    offset, lowest = vertex(centred)
    optimum = budget.centre + offset
    if note := _no_optimum(budget, float(centred[2]), float(optimum)):
        return replace(parabola, note=note), None
    draws, lowest_draws = vertex_draws(budget.x[inside] - budget.centre, budget.y[inside], noise)
    draws = draws + budget.centre
    n_optimum = monotonic_estimate(optimum, draws, noise, lambda x: 10**x)
    bounds, note = n_optimum.interval, ""
    if bounds is None:
        note = "the noise leaves the optimum without bounds"
    elif bounds.low < min(parabola.n) or bounds.high > max(parabola.n):
        note = "the optimum's interval leaves the sizes tried"

    def data(x: Array) -> Array:
        return budget.flops / flops_an_atom(costs, 10**x)

    return replace(
        parabola,
        n_optimum=n_optimum,
        d_optimum=monotonic_estimate(optimum, draws, noise, data),
        loss_optimum=monotonic_estimate(lowest, lowest_draws, noise, np.exp),
        note=note,
    ), draws


def _about_zero(coefficients: Array, centre: float) -> tuple[float, float, float]:
    c0, c1, c2 = (float(c) for c in coefficients)
    return c0 - c1 * centre + c2 * centre**2, c1 - 2 * c2 * centre, c2


def _no_optimum(budget: Budget, curvature: float, optimum: float) -> str:
    """Why a parabola has no minimum among the sizes tried, or ''."""
    if curvature <= 0:
        return "the parabola has no minimum: losses do not rise on both sides; add sizes or seeds"
    smallest, largest = float(budget.x.min()), float(budget.x.max())
    if smallest < optimum < largest:
        return ""
    side, wanted = ("smallest", "smaller") if optimum <= smallest else ("largest", "larger")
    return f"loss is least at the {side} size or beyond; add {wanted} sizes at this budget"


def _with_power_laws(
    fit: IsoflopFit,
    found: Sequence[tuple[Parabola, Array]],
    costs: Sequence[ModelCost],
    noise: ParabolaNoise,
) -> IsoflopFit:
    """Least squares of log N_opt, and of log D_opt, on log C, with the draws of the optima."""
    log_c = np.log10([parabola.flops for parabola, _ in found])
    u = log_c - log_c.mean()
    n_optima = np.array([parabola.n_optimum.value for parabola, _ in found if parabola.n_optimum])
    n_draws = np.stack([draws for _, draws in found])

    def law(y: Array, y_draws: Array) -> tuple[Estimate, float]:
        slope = float(u @ y / (u @ u))
        exponent = monotonic_estimate(slope, u @ y_draws / (u @ u), noise, lambda x: x)
        return exponent, float(10 ** (y.mean() - slope * log_c.mean()))

    def log_data(log_n: Array) -> Array:  # (budgets, any)
        return log_c[:, None] - np.log10(flops_an_atom(costs, 10**log_n))

    n_exponent, n_scale = law(np.log10(n_optima), n_draws)
    d_exponent, d_scale = law(log_data(np.log10(n_optima)[:, None])[:, 0], log_data(n_draws))
    return replace(fit, n_exponent=n_exponent, n_scale=n_scale, d_exponent=d_exponent, d_scale=d_scale)


def _window_text(factor: float) -> str:
    if math.isinf(factor):
        return "all sizes of a budget"
    return f"sizes within a factor of {factor:g} of the lowest loss, at least {MIN_SIZES}"


def _window_row(budgets: Sequence[Budget], factor: float) -> WindowRow:
    optima = []
    for budget in budgets:
        optimum = math.nan
        if budget.n_sizes >= MIN_SIZES:
            centred = budget.parabola(factor)
            x = budget.centre + float(vertex(centred)[0])
            optimum = 10**x if not _no_optimum(budget, float(centred[2]), x) else math.nan
        optima.append(optimum)
    kept = np.isfinite(optima)
    exponent = math.nan
    if kept.sum() > 1:
        flops = np.array([budget.flops for budget in budgets])
        exponent = float(np.polyfit(np.log(flops[kept]), np.log(np.array(optima)[kept]), 1)[0])
    return WindowRow(_window_text(factor), optima, exponent)


def _window_warnings(budgets: Sequence[Budget], rows: Sequence[WindowRow]) -> list[str]:
    """Budgets whose optimum moves with the window: that much of the answer is the method's."""
    warnings = []
    for i, budget in enumerate(budgets):
        optima = [row.n_optima[i] for row in rows if math.isfinite(row.n_optima[i])]
        if optima and max(optima) > WINDOW_SHIFT * min(optima):
            warnings.append(
                f"N_opt at {budget.flops:.2g} FLOPs moves from {min(optima):.3g} to {max(optima):.3g} with "
                "the window of the parabola; its interval does not hold that"
            )
    return warnings
