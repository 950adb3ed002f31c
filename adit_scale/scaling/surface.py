"""The law of a study over sizes and data, L(N, D) = E + A·N^-α + B·D^-β (Hoffmann et al., arXiv 2203.15556).

Values are those of the least Huber fit of log loss (δ = 1e-3, summed). The stated intervals are those of a
profile over weighted least squares, with the noise of runs and of points told apart (inference.py,
noise.py): on simulated studies they hold the planted values as often as they say
(benchmarks/fit_coverage.py). The bootstrap by run stands beside them. With repeated epochs D becomes
effective data (arXiv 2305.16264) where the runs show that repeats are worth less than new data.
"""

# ruff: noqa: RUF001 (Greek letters in text for readers)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adit_scale.errors import DataError
from adit_scale.scaling.inference import Inference, Runs
from adit_scale.scaling.laws import R_STAR_BOUNDS, SurfaceDraws, fit_surfaces, log_effective
from adit_scale.scaling.noise import LACK_OF_FIT_P
from adit_scale.scaling.profile import Side
from adit_scale.scaling.resampling import describe, draw, interval_of
from adit_scale.scaling.results import Estimate, HeldOut, Interval, SurfaceFit
from adit_scale.scaling.size_law import THIN_DOF, above_zero, identifiability, told_apart, without_traces
from adit_scale.scaling.solver import HUBER_DELTA, Array, Labels
from adit_scale.scaling.study_data import Point

MIN_SIZES = 3
MIN_SIZES_OF_TWO_D = 2  # sizes that must have been trained on different amounts of data
MIN_D_RATIO = 1.5
# Repeats are looked for where some run saw its data more often than this.
MANY_EPOCHS = 2.0
# Two amounts of data are one within this share: the last step overshoots the budget.
SAME_D = 0.02


@dataclass(frozen=True)
class Table:
    """Runs as columns, each (P,). unique: atoms that are different, NaN where unknown."""

    n: Array
    d: Array
    loss: Array
    unique: Array
    trunk: Sequence[str]
    label: Sequence[str]

    def where(self, keep: Labels) -> Table:
        index = np.flatnonzero(keep).tolist()
        names = ([column[i] for i in index] for column in (self.trunk, self.label))
        return Table(self.n[index], self.d[index], self.loss[index], self.unique[index], *names)


@dataclass(frozen=True)
class Surface:
    """The fitted law, to ask for losses (results.LossLaw). unique: None where all data are different."""

    best: SurfaceDraws
    resampled: SurfaceDraws | None
    inference: Inference

    def __call__(self, n: Array | float, d: Array | float, unique: Array | float | None = None) -> Array:
        n, d = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(d, dtype=float))
        u = None if unique is None else np.broadcast_to(np.asarray(unique, dtype=float), n.shape).ravel()
        return self.best.predict(n.ravel(), d.ravel(), u)[0].reshape(n.shape)

    def band(
        self, n: Array, d: Array, unique: Array | None = None
    ) -> tuple[Array, Array | None, Array | None]:
        """Loss and the interval of the law (not of one more run), each (P,)."""
        value = self(n, d, unique)
        if self.inference.covariance is None:
            return value, None, None
        return value, *self._interval(n, d, unique, np.inf)

    def draws(self, n: Array, d: Array, unique: Array | None = None) -> Array | None:
        """Loss by the R laws of resampled studies, (R, P)."""
        if self.resampled is None:
            return None
        n, d = np.broadcast_arrays(np.atleast_1d(n), np.atleast_1d(d))
        return self.resampled.predict(n, d, None if unique is None else np.broadcast_to(unique, n.shape))

    def predict(
        self, n: float, d: float, unique: float | None = None, n_runs: int = 1
    ) -> tuple[float, Interval | None]:
        """Loss expected of the mean of n_runs more runs, with the interval of that measurement."""
        value = float(self(n, d, unique))
        if self.inference.covariance is None:
            return value, None
        low, high = self._interval(np.array([n]), np.array([d]), unique, n_runs)
        return value, Interval(float(low[0]), float(high[0]))

    def _interval(
        self, n: Array, d: Array, unique: Array | float | None, n_runs: float
    ) -> tuple[Array, Array]:
        n, d = (np.asarray(a, dtype=float).ravel() for a in np.broadcast_arrays(n, d))
        known = np.full(len(n), np.inf) if unique is None else np.broadcast_to(unique, n.shape).astype(float)
        reference = self.best.reference

        def places(nodes: Array) -> Array:
            shape = nodes.shape[:2]
            r_star = np.exp(nodes[..., 2]) if nodes.shape[-1] == 3 else None
            log_d = log_effective(d[:, None], known[:, None], r_star)
            first = np.broadcast_to(np.log(n)[:, None] - reference[0], shape)
            return np.stack([first, np.broadcast_to(log_d - reference[1], shape)], axis=-1)

        return self.inference.prediction(places, len(n), n_runs)


def fit_surface(
    points: Sequence[Point],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    seed_noise: float | None = None,
    confidence: float = 0.95,
    delta: float = HUBER_DELTA,
    hold_out_largest: bool = True,
) -> SurfaceFit:
    """The law of decayed runs that differ in size and data (``select_points(..., one_budget=False)``).

    bootstrap: resampled studies. seed_noise: standard deviation of log loss between seeds where known from
    elsewhere. Raises DataError with fewer than three sizes, or where D varies at fewer than two of them.
    """
    unique = np.array([p.unique_atoms for p in points], dtype=float)
    return fit_surface_arrays(
        np.array([p.n_parameters for p in points], dtype=float),
        np.array([p.atoms_seen for p in points], dtype=float),
        np.array([p.final_loss for p in points], dtype=float),
        trunk=[p.trunk or p.run or p.label for p in points],
        unique=np.where(unique > 0, unique, np.nan),
        labels=[p.label for p in points],
        sizes={float(p.n_parameters): p.size for p in points},
        bootstrap=bootstrap,
        seed=seed,
        seed_noise=seed_noise,
        confidence=confidence,
        delta=delta,
        hold_out_largest=hold_out_largest,
    )


def fit_surface_arrays(
    n: Array,
    d: Array,
    loss: Array,
    *,
    trunk: Sequence[Any] | None = None,
    unique: Array | None = None,
    labels: Sequence[str] | None = None,
    sizes: dict[float, str] | None = None,
    hold_out_largest: bool = True,
    **settings: Any,
) -> SurfaceFit:
    """As fit_surface, of columns (P,): parameters, atoms seen, final losses.

    trunk: the run of each point. unique: different atoms each may see (NaN or None: all). sizes: names by N.
    """
    n, d, loss = (np.asarray(a, dtype=float) for a in (n, d, loss))
    names = [str(i) for i in range(len(n))]
    table = Table(
        n,
        d,
        loss,
        np.full(len(n), np.nan) if unique is None else np.asarray(unique, dtype=float),
        names if trunk is None else [str(t) for t in trunk],
        names if labels is None else labels,
    )
    fit = _fit(table, **settings)
    if not hold_out_largest:
        return fit
    held_out, notes = _hold_out(table, sizes or {}, settings)
    return replace(fit, held_out=held_out, warnings=[*fit.warnings, *notes])


def _check(table: Table) -> None:
    if not (np.isfinite(table.loss).all() and (table.loss > 0).all()):
        raise DataError("a loss is not finite and positive; leave that run out of the fit")
    sizes = np.unique(table.n)
    varied = sum(np.ptp(np.log(table.d[table.n == s])) >= np.log(MIN_D_RATIO) for s in sizes)
    if len(sizes) < MIN_SIZES or varied < MIN_SIZES_OF_TWO_D:
        raise DataError(
            f"{len(sizes)} sizes, {varied} of them at more than one D; L(N, D) takes at least {MIN_SIZES} "
            f"sizes, {MIN_SIZES_OF_TWO_D} of them at several D: sweep=chinchilla or sweep=isoflop makes them"
        )


def _fit(
    table: Table,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    seed_noise: float | None = None,
    confidence: float = 0.95,
    delta: float = HUBER_DELTA,
) -> SurfaceFit:
    _check(table)
    inference, repeats, notes = _infer(table, confidence, seed_noise)
    unique = np.where(np.isfinite(table.unique), table.unique, np.inf) if repeats else None
    best = fit_surfaces(table.n, table.d, np.log(table.loss), unique=unique, delta=delta)
    log_fitted = np.log(best.predict(table.n, table.d, unique)[0])
    covariance = inference.covariance
    noise = describe(covariance, len(table.n))
    resampled = None
    if covariance is not None and bootstrap:
        noisy = log_fitted + draw(np.random.default_rng(seed), covariance, bootstrap)
        more: dict[str, Any] = {"n_starts": 1}
        if repeats:  # r_star is searched for around its interval, each start at the fit's own exponents
            low, high = inference.extra()
            more = {"n_starts": 0, "r_star": (low.value / 1.5, high.value * 1.5)}
        resampled = fit_surfaces(
            table.n, table.d, noisy, unique=unique, delta=delta, starts=best.theta, tolerance=1e-7, **more
        )
    estimates = _estimates(best, resampled, inference, float(table.loss.min()), confidence)
    residual = np.log(table.loss) - log_fitted
    return SurfaceFit(
        form="repeats" if repeats else "surface",
        law=Surface(best, resampled, inference),
        estimates=estimates,
        sigma=noise.sigma,
        dof=noise.dof,
        noise_text=noise.holds,
        rms_log_residual=float(np.sqrt(np.mean(residual**2))),
        residuals=dict(zip(table.label, residual.tolist(), strict=True)),
        used=list(table.label),
        warnings=[*notes, *_quality(estimates, inference)],
    )


def _infer(table: Table, confidence: float, seed_noise: float | None) -> tuple[Inference, bool, list[str]]:
    """The fit that intervals come from, whether it holds repeats, and why."""
    reference = (float(np.log(table.n).mean()), float(np.log(table.d).mean()))
    log_n = np.log(table.n) - reference[0]
    budgets = np.round(np.log(table.d) / SAME_D)
    _, cells = np.unique(np.stack([table.n, budgets]), axis=1, return_inverse=True)
    _, groups = np.unique(np.array(table.trunk), return_inverse=True)
    runs = Runs(table.loss, groups, cells.ravel(), table.n)
    plain = np.stack([log_n, np.log(table.d) - reference[1]])
    epochs = table.d / table.unique
    seen = epochs[np.isfinite(epochs)]
    if not len(seen) or seen.max() <= MANY_EPOCHS or np.ptp(np.maximum(seen, 1.0)) < 0.5:
        return Inference(lambda _: plain, 2, runs, confidence, seed_noise, reference=reference), False, []
    unique = np.where(np.isfinite(table.unique), table.unique, np.inf)

    def effective(nodes: Array) -> Array:
        log_d = log_effective(table.d, unique, np.exp(nodes[..., 2:])) - reference[1]
        return np.stack([np.broadcast_to(log_n, log_d.shape), log_d], axis=-2)

    found = Inference(effective, 2, runs, confidence, seed_noise, (R_STAR_BOUNDS,), reference)
    text = f"up to {seen.max():.3g} epochs"
    if found.covariance is not None:
        low, high = found.extra()
        if not high.open:
            ends = f"{low.value:.3g} to {high.value:.3g} epochs"
            return found, True, [f"repeats count less than new data ({text}): r_star {ends}"]
        text += f", r_star at least {low.value:.3g}"
    note = f"repeats as good as new data within the noise ({text}): D is real atoms seen"
    return Inference(lambda _: plain, 2, runs, confidence, seed_noise, reference=reference), False, [note]


def _estimates(
    best: SurfaceDraws, resampled: SurfaceDraws | None, inference: Inference, lowest: float, confidence: float
) -> dict[str, Estimate]:
    values = _columns(best, lowest)
    if inference.covariance is None:
        return {name: Estimate(float(v[0])) for name, v in values.items()}
    boot = {} if resampled is None else _columns(resampled, lowest)
    alpha, beta, share = inference.exponent(0), inference.exponent(1), inference.exponent_share()
    firm = told_apart(alpha), told_apart(beta)
    offset = inference.offset()
    stated: dict[str, tuple[Interval, bool]] = {
        "E": (offset, above_zero(offset, lowest)),
        "A": (inference.coefficient(0, best.reference[0]), firm[0]),
        "alpha": (_interval(alpha), firm[0]),
        "B": (inference.coefficient(1, best.reference[1]), firm[1]),
        "beta": (_interval(beta), firm[1]),
        "n_exponent": (_interval(share), all(firm)),
        "d_exponent": (Interval(1.0 - share[1].value, 1.0 - share[0].value), all(firm)),
    }
    if "r_star" in values:
        stated["r_star"] = (_interval(inference.extra()), True)
    return {
        name: Estimate(
            float(values[name][0]),
            interval,
            Interval(*interval_of(boot[name], confidence)) if boot else None,
            identified,
        )
        for name, (interval, identified) in stated.items()
    }


def _columns(fits: SurfaceDraws, lowest: float) -> dict[str, Array]:
    alpha, beta = fits.exponent(0), fits.exponent(1)
    share = beta / (alpha + beta)
    columns = {
        "E": without_traces(fits.offset, lowest),
        "A": fits.scale(0),
        "alpha": alpha,
        "B": fits.scale(1),
        "beta": beta,
    }
    columns |= {"n_exponent": share, "d_exponent": 1.0 - share}
    return columns if fits.log_r_star is None else {**columns, "r_star": np.exp(fits.log_r_star)}


def _interval(ends: tuple[Side, Side]) -> Interval:
    return Interval(ends[0].value, ends[1].value)


def _quality(estimates: dict[str, Estimate], inference: Inference) -> list[str]:
    if inference.covariance is None:
        return ["no interval: as many runs as parameters; add seeds, sizes or budgets"]
    notes = identifiability(estimates, {"alpha": "α", "beta": "β"})
    if inference.covariance.freedoms[0] < THIN_DOF:
        notes.append(
            f"intervals rest on {inference.covariance.freedoms[0]:.2g} degrees of freedom between "
            "runs; add seeds or sizes"
        )
    if inference.misfit is not None and inference.misfit < LACK_OF_FIT_P:
        notes.append(
            f"runs miss the law by more than their repeats differ (lack of fit, p = {inference.misfit:.1g}): "
            "that misfit counts as noise"
        )
    for name, symbol in (("alpha", "α"), ("beta", "β")):
        found = estimates[name]
        if found.interval is not None and found.value not in found.interval:
            notes.append(
                f"the least Huber {symbol} ({found.value:.3g}) lies outside the interval of normal noise "
                f"({found.interval.low:.3g} to {found.interval.high:.3g}): a few runs lie far off the law"
            )
    return notes


def _hold_out(
    table: Table, sizes: dict[float, str], settings: dict[str, Any]
) -> tuple[list[HeldOut], list[str]]:
    """The largest size at every D, predicted from the smaller sizes."""
    largest = float(table.n.max())
    name = sizes.get(largest, f"N = {largest:.3g}")
    try:
        fit = _fit(table.where(table.n < largest), **{**settings, "bootstrap": 0})
    except DataError as problem:
        return [], [f"{name} is not held out: without it, {problem}"]
    held, notes = [], []
    top = table.where(table.n == largest)
    for budget in np.unique(np.round(np.log(top.d) / SAME_D)):
        runs = top.where(np.round(np.log(top.d) / SAME_D) == budget)
        d, measured = float(runs.d.mean()), float(np.exp(np.log(runs.loss).mean()))
        unique = float(runs.unique[0]) if fit.form == "repeats" and np.isfinite(runs.unique[0]) else None
        predicted, interval = fit.law.predict(largest, d, unique, len(runs.n))
        error = predicted / measured - 1.0
        held.append(HeldOut(name, int(largest), measured, predicted, interval, error, fit.form, d))
        if interval is not None and measured not in interval:
            notes.append(
                f"{name} at D = {d:.3g} held out: measured {measured:.4g} lies outside the predicted "
                f"interval {interval.low:.4g} to {interval.high:.4g}"
            )
    return held, notes
