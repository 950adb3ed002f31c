"""The scaling law of a study, with intervals that say what they hold.

L(N) = E + A·N^-α over the final validation losses of runs that differ in size alone. The offset is kept
only where the data show it: at least four sizes and a bootstrap interval of E away from zero; otherwise
the result is the two-parameter law A·N^-α, and says so.
"""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from adit_scale.errors import DataError
from adit_scale.scaling.exclusions import Exclusion, select_points
from adit_scale.scaling.laws import EXPONENT_BOUNDS, HUBER_DELTA, Array, LawDraws, PowerLaw, fit_laws
from adit_scale.scaling.resampling import (
    Interval,
    Noise,
    estimate_noise,
    lack_of_fit,
    resample,
    student,
    tails,
)
from adit_scale.scaling.study_data import Point

MIN_SIZES = 3
MIN_SIZES_WITH_OFFSET = 4
# An offset below this share of the smallest loss counts as zero.
NEGLIGIBLE_OFFSET = 0.01
LACK_OF_FIT_P = 0.01


@dataclass(frozen=True)
class LawFit:
    """One fitted law. Intervals are None where the runs leave nothing to estimate noise from."""

    form: str  # "offset" (E + A·N^-α) or "power" (A·N^-α)
    law: PowerLaw
    draws: LawDraws | None
    noise: Noise
    exponent: Interval | None
    scale: Interval | None
    offset: Interval | None
    confidence: float
    rms_log_residual: float

    def curve(self, n: Array) -> tuple[Array, Array | None, Array | None]:
        """Fitted loss at n (P,) and the interval of the law (not of one more run), or None, None."""
        if self.draws is None:
            return self.law(n), None, None
        low, high = np.quantile(self.draws.predict(n), tails(self.confidence), axis=0)
        return self.law(n), low, high

    def predict(self, n: float, seed: int) -> tuple[float, Interval | None]:
        """Loss expected of one more run at n, with the interval of that run: law and noise together."""
        value = float(self.law(n))
        if self.draws is None:
            return value, None
        draws = self.draws.predict(np.array([n]))[:, 0]
        rng = np.random.default_rng([seed, 1])
        factor = np.exp(self.noise.sigma * student(rng, self.noise.dof, len(draws)))
        low, high = np.quantile(draws * factor, tails(self.confidence))
        return value, Interval(float(low), float(high))


@dataclass(frozen=True)
class HeldOut:
    """The largest size predicted from the others. error: predicted / measured − 1."""

    size: str
    n_parameters: int
    measured: float
    predicted: float
    interval: Interval | None
    error: float
    form: str

    @property
    def inside(self) -> bool | None:
        return None if self.interval is None else self.measured in self.interval


@dataclass(frozen=True)
class Forecast:
    """The next size's cost and loss: N grown by the study's last ratio, the largest run's atoms."""

    n_parameters: float
    loss: float
    interval: Interval | None
    flops_total: float


@dataclass(frozen=True)
class ScalingFit:
    """fit: the law to quote. with_offset: the three-parameter fit where it was tried. identifiable: the data
    show an E above zero. seed_noise: the deviation of log loss given by the caller, if any."""

    fit: LawFit
    with_offset: LawFit | None
    identifiable: bool
    held_out: HeldOut | None
    forecast: Forecast | None
    used: list[Point]
    excluded: list[Exclusion]
    warnings: list[str]
    bootstrap: int
    seed: int
    seed_noise: float | None = None
    delta: float = field(default=HUBER_DELTA)

    def to_json(self) -> dict[str, Any]:
        """Everything but the draws, in plain types."""
        return {
            "law": "L = E + A * N**-alpha" if self.fit.form == "offset" else "L = A * N**-alpha",
            "N": "trainable parameters of the denoiser",
            "L": "EMA validation loss on the fixed (t, noise) grid",
            "objective": f"sum of Huber(log L_fit - log L), delta={self.delta:g}",
            "fit": _law_json(self.fit),
            "with_offset": None if self.with_offset is None else _law_json(self.with_offset),
            "identifiable": self.identifiable,
            "held_out": None if self.held_out is None else _plain(self.held_out),
            "forecast": None if self.forecast is None else _plain(self.forecast),
            "used": [p.label for p in self.used],
            "excluded": [_plain(e) for e in self.excluded],
            "warnings": self.warnings,
            "bootstrap": {"resamples": self.bootstrap, "seed": self.seed},
        }


def fit_points(
    points: Sequence[Point],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    hold_out_largest: bool = True,
    seed_noise: float | None = None,
    confidence: float = 0.95,
) -> ScalingFit:
    """The law of a study's points: selection, fit, intervals, the held-out largest size and the next one.

    seed_noise: standard deviation of log loss between seeds, when known from elsewhere.
    Raises DataError when fewer than three sizes have a usable loss.
    """
    selection = select_points(points)
    used, warnings = selection.used, list(selection.warnings)
    n_sizes = len({p.n_parameters for p in used})
    if n_sizes < MIN_SIZES:
        left_out = "; ".join(f"{e.label}: {e.reason}" for e in selection.excluded)
        raise DataError(
            f"{n_sizes} sizes have a usable loss, expected at least {MIN_SIZES}; add sizes to "
            f"sweep.grid.model/denoiser or rerun the points left out ({left_out or 'none'})"
        )
    settings = (bootstrap, seed, seed_noise, confidence)
    fit, with_offset, notes = _choose_form(used, *settings)
    warnings += notes
    held_out = None
    if hold_out_largest:
        held_out, notes = _hold_out(used, *settings)
        warnings += notes
    return ScalingFit(
        fit=fit,
        with_offset=with_offset,
        identifiable=fit.form == "offset",
        held_out=held_out,
        forecast=_forecast(fit, used, seed),
        used=used,
        excluded=selection.excluded,
        warnings=warnings,
        bootstrap=bootstrap,
        seed=seed,
        seed_noise=seed_noise,
    )


def fit_law(
    n: Array,
    loss: Array,
    form: str,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    seed_noise: float | None = None,
    confidence: float = 0.95,
) -> LawFit:
    """Fit one form ("offset" or "power") to the losses (P,) of runs of n (P,) parameters.

    Raises DataError when there are fewer sizes than the form has parameters, or a loss is not positive.
    """
    n, loss = np.asarray(n, dtype=float), np.asarray(loss, dtype=float)
    with_offset = form == "offset"
    needed = 3 if with_offset else 2
    n_sizes = len(np.unique(n))
    if n_sizes < needed:
        raise DataError(
            f"{n_sizes} sizes; expected at least {needed} for the law {form!r}: add sizes to the sweep"
        )
    if not (np.isfinite(loss).all() and (loss > 0).all()):
        raise DataError("a loss is not finite and positive; leave that run out of the fit")
    log_loss = np.log(loss)
    best = fit_laws(n, log_loss, with_offset=with_offset)
    law = best.law()
    fitted = np.log(law(n))
    noise = estimate_noise(n, log_loss, fitted, needed, seed_noise)
    draws = None
    if noise.kind != "none" and bootstrap:
        resampled = resample(np.random.default_rng(seed), noise, n, log_loss, fitted, bootstrap)
        draws = fit_laws(n, resampled, with_offset=with_offset)

    def interval(values: Array) -> Interval:
        low, high = np.quantile(values, tails(confidence))
        return Interval(float(low), float(high))

    return LawFit(
        form=form,
        law=law,
        draws=draws,
        noise=noise,
        exponent=None if draws is None else interval(draws.exponent),
        scale=None if draws is None else interval(draws.scale),
        offset=None if draws is None or not with_offset else interval(draws.offset),
        confidence=confidence,
        rms_log_residual=float(np.sqrt(np.mean((fitted - log_loss) ** 2))),
    )


def _choose_form(
    used: Sequence[Point], bootstrap: int, seed: int, seed_noise: float | None, confidence: float
) -> tuple[LawFit, LawFit | None, list[str]]:
    """The fit to quote, the three-parameter fit where it was tried, and what a reader must know."""
    n, loss = _columns(used)
    settings: dict[str, Any] = {
        "bootstrap": bootstrap,
        "seed": seed,
        "seed_noise": seed_noise,
        "confidence": confidence,
    }
    n_sizes = len(np.unique(n))
    power = fit_law(n, loss, "power", **settings)
    if n_sizes < MIN_SIZES_WITH_OFFSET:
        note = f"{n_sizes} sizes cannot show an offset: E is taken as 0, so α is that of this range only"
        return power, None, [note, *_quality(power, n, loss)]
    full = fit_law(n, loss, "offset", **settings)
    fault = _offset_fault(full, NEGLIGIBLE_OFFSET * float(loss.min()))
    if fault is None:
        return full, full, _quality(full, n, loss)
    return (
        power,
        full,
        [f"{fault}: E is taken as 0, so α is that of this range only", *_quality(power, n, loss)],
    )


def _offset_fault(full: LawFit, negligible: float) -> str | None:
    """Why the data do not show an offset, or None: E may be zero, or E and A·N^-α cannot be told apart."""
    if full.offset is None or full.exponent is None:
        return "E has no interval (no noise to resample)"
    intervals = f"E {full.offset.low:.3g} to {full.offset.high:.3g}"
    intervals += f", α {full.exponent.low:.3g} to {full.exponent.high:.3g}"
    if full.offset.low <= negligible:
        return f"E is not identifiable (with E free: {intervals})"
    smallest, largest = EXPONENT_BOUNDS
    if full.exponent.low <= 2 * smallest or full.exponent.high >= largest / 2:
        return f"E and A·N^-α cannot be told apart (with E free: {intervals})"
    return None


def _quality(fit: LawFit, n: Array, loss: Array) -> list[str]:
    """Warnings about a law that the seeds contradict, and about intervals that do not exist or are thin."""
    notes = []
    if fit.noise.kind == "none":
        notes.append("no interval: as many sizes as parameters and no seed noise known; add seeds or sizes")
    if fit.noise.kind == "residual" and fit.noise.dof <= 2:
        notes.append(f"the interval rests on {fit.noise.dof:.0f} degrees of freedom; add seeds or sizes")
    if fit.exponent is not None and fit.exponent.high < 0:
        notes.append("the interval of α lies below 0: loss rises with size")
    elif fit.exponent is not None and fit.exponent.low <= 0:
        notes.append("the interval of α includes 0: no fall of loss with size beyond the noise")
    n_parameters = 3 if fit.form == "offset" else 2
    lack = lack_of_fit(n, np.log(loss), np.log(fit.law(n)), n_parameters)
    if lack is not None and lack < LACK_OF_FIT_P:
        notes.append(
            f"sizes miss the law by more than their seeds differ (lack of fit, p = {lack:.1g}): "
            "the interval holds seed noise only, not the law's error"
        )
    return notes


def _hold_out(
    used: Sequence[Point], bootstrap: int, seed: int, seed_noise: float | None, confidence: float
) -> tuple[HeldOut | None, list[str]]:
    """Predict the largest size from the others, with the form they themselves support."""
    largest = max(p.n_parameters for p in used)
    rest = [p for p in used if p.n_parameters != largest]
    if len({p.n_parameters for p in rest}) < MIN_SIZES:
        return None, [f"the largest size is not held out: that takes {MIN_SIZES + 1} sizes"]
    fit, _, _ = _choose_form(rest, bootstrap, seed, seed_noise, confidence)
    top = [p for p in used if p.n_parameters == largest]
    measured = float(np.exp(np.mean([math.log(p.final_loss) for p in top])))
    predicted, interval = fit.predict(largest, seed)
    held_out = HeldOut(
        size=top[0].size,
        n_parameters=largest,
        measured=measured,
        predicted=predicted,
        interval=interval,
        error=predicted / measured - 1.0,
        form=fit.form,
    )
    if interval is None or measured in interval:
        return held_out, []
    note = (
        f"{held_out.size} held out: measured {measured:.4g} lies outside the predicted interval "
        f"{interval.low:.4g} to {interval.high:.4g}"
    )
    return held_out, [note]


def _forecast(fit: LawFit, used: Sequence[Point], seed: int) -> Forecast | None:
    """The next size: N times the ratio of the two largest; its FLOPs on the line through those two."""
    by_size = {p.n_parameters: p for p in used}
    below, top = (by_size[n] for n in sorted(by_size)[-2:])
    n_next = top.n_parameters * top.n_parameters / below.n_parameters
    if below.atoms_seen <= 0 or top.atoms_seen <= 0:
        return None
    cost_below, cost_top = below.flops_total / below.atoms_seen, top.flops_total / top.atoms_seen
    slope = (cost_top - cost_below) / (top.n_parameters - below.n_parameters)
    cost_next = cost_top + slope * (n_next - top.n_parameters)
    loss, interval = fit.predict(n_next, seed)
    return Forecast(n_next, loss, interval, cost_next * top.atoms_seen)


def _columns(points: Sequence[Point]) -> tuple[Array, Array]:
    return (
        np.array([p.n_parameters for p in points], dtype=float),
        np.array([p.final_loss for p in points], dtype=float),
    )


def _law_json(fit: LawFit) -> dict[str, Any]:
    return {
        "form": fit.form,
        "E": fit.law.offset,
        "A": fit.law.scale,
        "alpha": fit.law.exponent,
        "confidence": fit.confidence,
        "E_interval": _plain(fit.offset),
        "A_interval": _plain(fit.scale),
        "alpha_interval": _plain(fit.exponent),
        "noise": _plain(fit.noise),
        "rms_log_residual": fit.rms_log_residual,
    }


def _plain(record: Any) -> Any:
    return None if record is None else asdict(record)
