"""What the fits of a study found: plain records that figures, report and advice read. Nothing is fitted here.

N: parameters of the denoiser. D: real atoms seen. C: training FLOPs. L: final validation loss. Loss
differences and noise are in natural log of L, rates in fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Estimate:
    """A fitted quantity.

    interval: the stated interval (95% unless said); None where the runs leave nothing to estimate noise from.
    bootstrap: that of resampled runs, to set beside it. identified: False where the data cannot tell the
    quantity from a bound of its range; a warning of the fit then says which.
    """

    value: float
    interval: Interval | None = None
    bootstrap: Interval | None = None
    identified: bool = True


@dataclass(frozen=True)
class HeldOut:
    """One run (or the mean of one size's seeds) predicted from others. error: predicted / measured - 1.

    interval: of such a measurement: the law's error and the noise of runs together. form: of the law used.
    """

    size: str
    n_parameters: int
    measured: float
    predicted: float
    interval: Interval | None
    error: float
    form: str
    atoms_seen: float = 0.0

    @property
    def inside(self) -> bool | None:
        return None if self.interval is None else self.measured in self.interval


class LossLaw(Protocol):
    """A fitted L(N, D) that can be asked. n, d: (P,) or floats. unique: atoms of the data that are different.

    cost of a question is small: draws of the bootstrap are kept.
    """

    def __call__(self, n: Array | float, d: Array | float, unique: Array | float | None = None) -> Array: ...

    def band(
        self, n: Array, d: Array, unique: Array | None = None
    ) -> tuple[Array, Array | None, Array | None]:
        """Loss and the interval of the law (not of one more run), each (P,)."""

    def draws(self, n: Array, d: Array, unique: Array | None = None) -> Array | None:
        """Loss by the R laws of resampled studies, (R, P)."""

    def predict(
        self, n: float, d: float, unique: float | None = None, n_runs: int = 1
    ) -> tuple[float, Interval | None]:
        """Loss expected of the mean of n_runs more runs, with the interval of that measurement."""


@dataclass(frozen=True)
class SurfaceFit:
    """L = E + A N^-alpha + B D^-beta over all decayed runs of a study.

    form: "surface", or "repeats" where D is replaced by the effective data of repeated epochs (r_star).
    estimates: E, A, alpha, B, beta; n_exponent = beta / (alpha + beta) and d_exponent, of the compute-optimal
    N ~ C^a and D ~ C^b; with repeats r_star. law: to ask for losses.
    noise_text: what the intervals hold, in words. used: labels of the runs.
    """

    form: str
    law: LossLaw
    estimates: Mapping[str, Estimate]
    sigma: float
    dof: float
    noise_text: str
    rms_log_residual: float
    residuals: Mapping[str, float]  # label -> log L - log fitted
    used: Sequence[str]
    held_out: Sequence[HeldOut] = ()  # the largest size at every D, predicted from the smaller sizes
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Parabola:
    """One budget: log L = c0 + c1 x + c2 x^2 over x = log10 N, through the points in the window.

    n, loss, labels, in_window: (P,), by n; losses moved to exactly ``flops`` along the envelope's slope.
    n_optimum, loss_optimum, d_optimum: None where no minimum is inside; ``note`` says why.
    """

    flops: float
    n: Sequence[float]
    loss: Sequence[float]
    labels: Sequence[str]
    in_window: Sequence[bool]
    coefficients: tuple[float, float, float] | None
    n_optimum: Estimate | None = None
    d_optimum: Estimate | None = None
    loss_optimum: Estimate | None = None
    note: str = ""


@dataclass(frozen=True)
class WindowRow:
    """The optima again with another window. n_optima: one a parabola, NaN where there is none."""

    setting: str
    n_optima: Sequence[float]
    n_exponent: float


@dataclass(frozen=True)
class IsoflopFit:
    """Optima of several budgets, N_opt = n_scale C^n_exponent, D_opt = d_scale C^d_exponent.

    windows: what other windows give, the one used among them. noise_text: what the intervals hold.
    """

    parabolas: Sequence[Parabola]
    window_text: str
    n_exponent: Estimate | None = None
    n_scale: float = float("nan")
    d_exponent: Estimate | None = None
    d_scale: float = float("nan")
    warnings: Sequence[str] = ()
    windows: Sequence[WindowRow] = ()
    noise_text: str = ""


@dataclass(frozen=True)
class LossLink:
    """A rate through the loss: rate = ceiling * sigmoid((midpoint - L) / width), binomial likelihood.

    ceiling: what real data score through the autoencoder, fixed. curve: loss (K,), rate, low, high to draw.
    """

    metric: str
    ceiling: float
    midpoint: Estimate
    width: Estimate
    dispersion: float
    curve: tuple[Array, Array, Array, Array]
    n_points: int
    note: str = ""


@dataclass(frozen=True)
class Basin:
    """Final loss against learning rate at one size.

    lr, loss: (P,), by rate, means over seeds; the loss is inf where the run diverged. optimum: minimum of a
    parabola in log lr through three or more points around the lowest; None where ``note`` says why. at_edge:
    the lowest is the first or last rate tried. used: the rate of the study's other runs of this size, or
    nan. excess: log loss at ``used`` above the optimum.
    """

    size: str
    n_parameters: int
    lr: Sequence[float]
    loss: Sequence[float]
    optimum: Estimate | None
    at_edge: bool
    used: float = float("nan")
    excess: float = float("nan")
    atoms_seen: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class SeedNoise:
    """Runs that differ in seed alone. sigma: pooled standard deviation of log loss, interval by chi^2.

    by_size: (size, N, losses)."""

    sigma: Estimate
    dof: int
    by_size: Sequence[tuple[str, int, Sequence[float]]]


@dataclass(frozen=True)
class TransferPair:
    """Joint training against one domain alone, on that domain's validation loss.

    match: "samples" (the domain's own sets seen as often) or "flops" (equal compute). delta: log L_joint -
    log L_single; below 0 joint training helps. verdict: helps, hurts, within noise, or unknown without seeds.
    multiplier: how many times the single-domain run's compute (or data) joint training would need for the
    same loss; below 1 it saves. None where no curve allows to tell.
    """

    domain: str
    size: str
    n_parameters: int
    match: str
    joint_loss: float
    single_loss: float
    n_joint: int
    n_single: int
    delta: Estimate
    verdict: str
    multiplier: Estimate | None = None
    note: str = ""  # what the interval holds; why there is no multiplier


@dataclass(frozen=True)
class SensitivityRow:
    """The law again with one choice changed. what: objective, exclusions, definition of N, of C ..."""

    what: str
    setting: str
    n_used: int
    alpha: float
    beta: float
    offset: float
    held_out_error: float
    note: str = ""


@dataclass(frozen=True)
class EnvelopePoint:
    """A finished run below which no other lies at its compute or less."""

    label: str
    flops: float
    n_parameters: int
    loss: float


@dataclass(frozen=True)
class ModelCost:
    """FLOPs a real atom, C and C_total, of a size: measured from a run of it."""

    size: str
    n_parameters: int
    flops_an_atom: float
    flops_total_an_atom: float


@dataclass(frozen=True)
class Exclusion:
    """A point left out of a fit. It still stands in the table."""

    label: str
    reason: str
