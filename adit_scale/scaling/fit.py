"""The scaling law of a study, with intervals that say what they hold.

L(N) = E + A·N^-α over the final validation losses of runs that differ in size alone. Where E cannot be told
from 0, the law keeps its E all the same, with an interval that begins at 0, and says so: a law with E fixed
at 0 would state an exponent and a forecast far surer than the data. The two-parameter law A·N^-α stands
beside it, and alone where there are fewer than four sizes, nothing to estimate noise from, or no fall of
loss with size.
"""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adit_scale.errors import DataError
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.exclusions import select_points
from adit_scale.scaling.noise import LACK_OF_FIT_P
from adit_scale.scaling.results import Exclusion, HeldOut, Interval
from adit_scale.scaling.size_law import THIN_DOF, LawFit, fit_law, identifiability
from adit_scale.scaling.solver import HUBER_DELTA, Array
from adit_scale.scaling.study_data import Point

MIN_SIZES = 3
MIN_SIZES_WITH_OFFSET = 4


@dataclass(frozen=True)
class Forecast:
    """The next size's cost and loss: N grown by the study's last ratio, the largest run's atoms."""

    n_parameters: float
    loss: float
    interval: Interval | None
    flops_total: float


@dataclass(frozen=True)
class ScalingFit:
    """fit: the law to quote. with_offset: the three-parameter fit where it was tried. power: the
    two-parameter one. identifiable: the data show an E above zero. seed_noise: the deviation of log loss
    given, if any."""

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
    delta: float = HUBER_DELTA
    power: LawFit | None = None

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
            "intervals": "profile of weighted least squares, Student-t; beside it the bootstrap by run",
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
    delta: float = HUBER_DELTA,
    max_leakage: float = SweepConfig.max_leakage,
) -> ScalingFit:
    """The law of a study's points: selection, fit, intervals, the held-out largest size and the next one.

    seed_noise: standard deviation of log loss between seeds, when known from elsewhere. delta: of the Huber
    loss. max_leakage: share of a domain's held-out sets that may stand in the training data.
    Raises DataError when fewer than three sizes have a usable loss.
    """
    selection = select_points(points, max_leakage=max_leakage)
    used, warnings = selection.used, list(selection.warnings)
    n_sizes = len({p.n_parameters for p in used})
    if n_sizes < MIN_SIZES:
        left_out = "; ".join(f"{e.label}: {e.reason}" for e in selection.excluded)
        raise DataError(
            f"{n_sizes} sizes have a usable loss, expected at least {MIN_SIZES}; add sizes to "
            f"sweep.grid.model/denoiser or rerun the points left out ({left_out or 'none'})"
        )
    settings = {
        "bootstrap": bootstrap,
        "seed": seed,
        "seed_noise": seed_noise,
        "confidence": confidence,
        "delta": delta,
    }
    fit, with_offset, power, notes = _choose_form(used, settings)
    warnings += notes
    held_out = None
    if hold_out_largest:
        held_out, notes = _hold_out(used, settings)
        warnings += notes
    return ScalingFit(
        fit=fit,
        with_offset=with_offset,
        identifiable=fit.form == "offset" and fit.estimates["E"].identified,
        held_out=held_out,
        forecast=_forecast(fit, used),
        used=used,
        excluded=selection.excluded,
        warnings=warnings,
        bootstrap=bootstrap,
        seed=seed,
        seed_noise=seed_noise,
        delta=delta,
        power=power,
    )


def _choose_form(
    used: Sequence[Point], settings: Mapping[str, Any]
) -> tuple[LawFit, LawFit | None, LawFit, list[str]]:
    """The fit to quote, the three-parameter fit where it was tried, the two-parameter one, and notes."""
    n, loss = _columns(used)
    n_sizes = len(np.unique(n))
    power = fit_law(n, loss, "power", **settings)
    if n_sizes < MIN_SIZES_WITH_OFFSET:
        note = f"{n_sizes} sizes cannot show an offset: E is taken as 0, so α is that of this range only"
        return power, None, power, [note, *_quality(power)]
    if power.exponent is not None and power.exponent.low <= 0:
        return power, None, power, _quality(power)
    full = fit_law(n, loss, "offset", **settings)
    if full.noise.kind == "none":
        note = "E has no interval (no noise to resample): E is taken as 0, so α is that of this range only"
        return power, full, power, [note, *_quality(power)]
    notes = identifiability(full.estimates, {"alpha": "α"})
    if notes and power.exponent is not None:
        a = power.exponent
        notes.append(f"with E = 0, α is {power.law.exponent:.3g} ({a.low:.3g} to {a.high:.3g}) on this range")
    return full, full, power, notes + _quality(full)


def _quality(fit: LawFit) -> list[str]:
    """Warnings about a law that the seeds contradict, and about intervals that do not exist or are thin."""
    notes = []
    if fit.noise.kind == "none":
        notes.append("no interval: as many sizes as parameters and no seed noise known; add seeds or sizes")
    elif fit.noise.dof < THIN_DOF:
        notes.append(f"the interval rests on {fit.noise.dof:.2g} degrees of freedom; add seeds or sizes")
    ends = fit.exponent
    if ends is not None and ends.high < 0:
        notes.append("the interval of α lies below 0: loss rises with size")
    elif ends is not None and ends.low <= 0:
        notes.append("the interval of α includes 0: no fall of loss with size beyond the noise")
    if ends is not None and fit.law.exponent not in ends:
        notes.append(
            f"the least Huber α ({fit.law.exponent:.3g}) lies outside the interval of normal noise "
            f"({ends.low:.3g} to {ends.high:.3g}): a few runs lie far off the law; see the residuals"
        )
    if fit.misfit is not None and fit.misfit < LACK_OF_FIT_P:
        notes.append(
            f"sizes miss the law by more than their seeds differ (lack of fit, p = {fit.misfit:.1g}): "
            "that misfit counts as noise of the sizes"
        )
    return notes


def _hold_out(used: Sequence[Point], settings: Mapping[str, Any]) -> tuple[HeldOut | None, list[str]]:
    """Predict the largest size from the others, with the form they themselves support."""
    largest = max(p.n_parameters for p in used)
    rest = [p for p in used if p.n_parameters != largest]
    if len({p.n_parameters for p in rest}) < MIN_SIZES:
        return None, [f"the largest size is not held out: that takes {MIN_SIZES + 1} sizes"]
    fit = _choose_form(rest, {**settings, "bootstrap": 0})[0]
    top = [p for p in used if p.n_parameters == largest]
    measured = float(np.exp(np.mean([math.log(p.final_loss) for p in top])))
    predicted, interval = fit.predict(largest, n_runs=len(top))
    held_out = HeldOut(
        size=top[0].size,
        n_parameters=largest,
        measured=measured,
        predicted=predicted,
        interval=interval,
        error=predicted / measured - 1.0,
        form=fit.form,
        atoms_seen=float(np.mean([p.atoms_seen for p in top])),
    )
    if interval is None or measured in interval:
        return held_out, []
    note = (
        f"{held_out.size} held out: measured {measured:.4g} lies outside the predicted interval "
        f"{interval.low:.4g} to {interval.high:.4g}"
    )
    return held_out, [note]


def _forecast(fit: LawFit, used: Sequence[Point]) -> Forecast | None:
    """The next size: N times the ratio of the two largest; its FLOPs on the line through those two."""
    by_size = {p.n_parameters: p for p in used}
    below, top = (by_size[n] for n in sorted(by_size)[-2:])
    n_next = top.n_parameters * top.n_parameters / below.n_parameters
    if below.atoms_seen <= 0 or top.atoms_seen <= 0:
        return None
    cost_below, cost_top = below.flops_total / below.atoms_seen, top.flops_total / top.atoms_seen
    slope = (cost_top - cost_below) / (top.n_parameters - below.n_parameters)
    cost_next = cost_top + slope * (n_next - top.n_parameters)
    loss, interval = fit.predict(n_next)
    return Forecast(n_next, loss, interval, cost_next * top.atoms_seen)


def _columns(points: Sequence[Point]) -> tuple[Array, Array]:
    return (
        np.array([p.n_parameters for p in points], dtype=float),
        np.array([p.final_loss for p in points], dtype=float),
    )


def _law_json(fit: LawFit) -> dict[str, Any]:
    found: dict[str, Any] = {
        "form": fit.form,
        "E": fit.law.offset,
        "A": fit.law.scale,
        "alpha": fit.law.exponent,
        "confidence": fit.confidence,
    }
    for name in ("E", "A", "alpha"):
        estimate = fit.estimates.get(name)
        found[f"{name}_interval"] = None if estimate is None else _plain(estimate.interval)
        found[f"{name}_bootstrap"] = None if estimate is None else _plain(estimate.bootstrap)
    return {**found, "noise": _plain(fit.noise), "rms_log_residual": fit.rms_log_residual}


def _plain(record: Any) -> Any:
    return None if record is None else asdict(record)
