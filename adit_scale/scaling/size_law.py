"""One fitted law L(N): the least Huber curve, its noise and its intervals.

Estimates are those of the least Huber fit (δ = 1e-3). The stated interval is that of a profile: all values
that a weighted least squares fit of relative residuals cannot reject at the noise the runs show
(inference.py); for A·N^-α the t interval of a straight line. Beside it stands the bootstrap: studies drawn
from the fitted law with that noise, whole runs at a time, each fitted again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adit_scale.errors import DataError
from adit_scale.scaling.inference import Inference, Runs
from adit_scale.scaling.laws import LawDraws, PowerLaw, fit_laws
from adit_scale.scaling.profile import Side
from adit_scale.scaling.resampling import Noise, describe, draw, interval_of
from adit_scale.scaling.results import Estimate, Interval
from adit_scale.scaling.solver import HUBER_DELTA, Array
from adit_scale.scaling.straight_line import StraightLine

# An offset below this share of the smallest loss counts as zero.
NEGLIGIBLE_OFFSET = 0.01
# An exponent known to less than this factor, end to end, cannot be told apart from the offset.
LOOSE_EXPONENT = 2.0
THIN_DOF = 2.5  # fewer degrees of freedom give a warning


@dataclass(frozen=True)
class LawFit:
    """One fitted law. Intervals are None where the runs leave nothing to estimate noise from.

    estimates: alpha, A and, with an offset, E. misfit: p-value of the lack-of-fit test, None without seeds.
    """

    form: str  # "offset" (E + A·N^-α) or "power" (A·N^-α)
    law: PowerLaw
    draws: LawDraws | None
    noise: Noise
    estimates: Mapping[str, Estimate]
    confidence: float
    rms_log_residual: float
    misfit: float | None
    inference: Inference | StraightLine

    @property
    def exponent(self) -> Interval | None:
        return self.estimates["alpha"].interval

    @property
    def scale(self) -> Interval | None:
        return self.estimates["A"].interval

    @property
    def offset(self) -> Interval | None:
        return self.estimates["E"].interval if "E" in self.estimates else None

    def curve(self, n: Array) -> tuple[Array, Array | None, Array | None]:
        """Fitted loss at n (P,) and the interval of the law (not of one more run), or None, None."""
        if self.noise.kind == "none":
            return self.law(n), None, None
        return self.law(n), *self._interval(np.asarray(n, dtype=float))

    def predict(self, n: float, *, n_runs: int = 1) -> tuple[float, Interval | None]:
        """Loss expected of the mean of n_runs more runs at n, with its interval: law and noise together."""
        value = float(self.law(n))
        if self.noise.kind == "none":
            return value, None
        low, high = self._interval(np.array([float(n)]), n_runs)
        return value, Interval(float(low[0]), float(high[0]))

    def _interval(self, n: Array, n_runs: float = np.inf) -> tuple[Array, Array]:
        if isinstance(self.inference, StraightLine):
            return self.inference.prediction(n, n_runs)
        assert self.inference.reference is not None
        x = (np.log(n) - self.inference.reference[0])[:, None, None]
        return self.inference.prediction(lambda u: np.tile(x, (1, u.shape[1], 1)), len(n), n_runs)


def fit_law(
    n: Array,
    loss: Array,
    form: str,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    seed_noise: float | None = None,
    confidence: float = 0.95,
    delta: float = HUBER_DELTA,
) -> LawFit:
    """Fit one form ("offset" or "power") to the losses (P,) of runs of n (P,) parameters.

    bootstrap: resampled studies, 0 for none. delta: of the Huber loss. seed_noise: standard deviation of log
    loss between seeds where known from elsewhere; it is left aside where the runs contradict it.
    Raises DataError when there are fewer sizes than the form has parameters, or a loss is not positive.
    """
    n, loss = np.asarray(n, dtype=float), np.asarray(loss, dtype=float)
    with_offset = form == "offset"
    needed, n_sizes = (3 if with_offset else 2), len(np.unique(n))
    if n_sizes < needed:
        raise DataError(
            f"{n_sizes} sizes; expected at least {needed} for the law {form!r}: add sizes to the sweep"
        )
    if not (np.isfinite(loss).all() and (loss > 0).all()):
        raise DataError("a loss is not finite and positive; leave that run out of the fit")
    best = fit_laws(n, np.log(loss), with_offset=with_offset, delta=delta)
    law = best.law()
    inference = _infer(n, loss, with_offset, confidence, seed_noise)
    covariance = inference.covariance
    noise = describe(covariance, len(n))
    draws = None
    if covariance is not None and bootstrap:
        rng = np.random.default_rng(seed)
        noisy = np.log(law(n)) + draw(rng, covariance, bootstrap)
        draws = fit_laws(n, noisy, with_offset=with_offset, delta=delta)
    return LawFit(
        form=form,
        law=law,
        draws=draws,
        noise=noise,
        estimates=_estimates(law, draws, inference, float(loss.min()), confidence),
        confidence=confidence,
        rms_log_residual=float(np.sqrt(np.mean((np.log(law(n)) - np.log(loss)) ** 2))),
        misfit=inference.misfit,
        inference=inference,
    )


def _infer(
    n: Array, loss: Array, with_offset: bool, confidence: float, seed_noise: float | None
) -> Inference | StraightLine:
    if not with_offset:
        return StraightLine(n, loss, confidence, seed_noise)
    reference = float(np.log(n).mean())
    x = (np.log(n) - reference)[None]
    runs = Runs(loss, np.arange(len(n)), n, n)
    return Inference(lambda _: x, 1, runs, confidence, seed_noise, reference=(reference,))


def _estimates(
    law: PowerLaw,
    draws: LawDraws | None,
    inference: Inference | StraightLine,
    lowest: float,
    confidence: float,
) -> dict[str, Estimate]:
    boot: dict[str, Interval | None] = dict.fromkeys(("E", "A", "alpha"))
    if draws is not None:
        columns = {"E": without_traces(draws.offset, lowest), "A": draws.scale, "alpha": draws.exponent}
        boot = {name: Interval(*interval_of(values, confidence)) for name, values in columns.items()}
    if isinstance(inference, StraightLine):
        known = inference.covariance is not None
        return {
            "alpha": Estimate(law.exponent, inference.exponent() if known else None, boot["alpha"]),
            "A": Estimate(law.scale, inference.coefficient() if known else None, boot["A"]),
        }
    if inference.covariance is None:
        return {
            name: Estimate(v) for name, v in (("E", law.offset), ("A", law.scale), ("alpha", law.exponent))
        }
    ends = inference.exponent(0)
    assert inference.reference is not None
    scale, offset = inference.coefficient(0, inference.reference[0]), inference.offset()
    firm = told_apart(ends)
    return {
        "E": Estimate(
            float(without_traces(np.array(law.offset), lowest)), offset, boot["E"], above_zero(offset, lowest)
        ),
        "A": Estimate(law.scale, scale, boot["A"], firm),
        "alpha": Estimate(law.exponent, Interval(ends[0].value, ends[1].value), boot["alpha"], firm),
    }


def without_traces(offset: Array, lowest: float) -> Array:
    """E, 0 where the solver, which works on log E, only came near it. lowest: the smallest loss."""
    return np.where(offset < 1e-4 * lowest, 0.0, offset)


def above_zero(offset: Interval, lowest: float) -> bool:
    """Whether the data show an E above zero. lowest: the smallest loss."""
    return offset.low > NEGLIGIBLE_OFFSET * lowest


def told_apart(ends: tuple[Side, Side]) -> bool:
    """Whether an exponent and E are known apart: its interval spans less than a factor of two."""
    return not ends[0].open and not ends[1].open and ends[1].value < LOOSE_EXPONENT * ends[0].value


def identifiability(estimates: Mapping[str, Estimate], exponents: Mapping[str, str]) -> list[str]:
    """What the data cannot tell, in words. exponents: symbol of each exponent among ``estimates``."""
    offset = estimates["E"].interval
    if offset is None:
        return ["E has no interval (no noise to resample)"]
    text = f"E {offset.low:.3g} to {offset.high:.3g}"
    notes = []
    if not estimates["E"].identified:
        notes.append(f"E is not identifiable: it cannot be told from 0 on this range ({text})")
    for name, symbol in exponents.items():
        ends = estimates[name].interval
        if not estimates[name].identified and ends is not None:
            notes.append(
                f"{symbol} and E cannot be told apart on this range "
                f"({symbol} {ends.low:.3g} to {ends.high:.3g}, {text})"
            )
    return notes
