"""Does a rate rise with model size, or is the difference noise?

Logistic regression of successes on log10 N: logit(rate) = a + b·log10(N), binomial likelihood. Runs of one
size scatter by more than their samples do (seeds), so the slope's interval is widened by the Pearson
dispersion where that exceeds 1 (quasi-binomial: McCullagh and Nelder 1989, section 4.5), with Student's t for
the few points behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit

from adit_scale.evaluation.statistics import WITHIN_NOISE, Rate
from adit_scale.scaling.laws import Array
from adit_scale.scaling.study_data import Point

RISES, FALLS = "rises with size", "falls with size"
# Added to successes and to failures of each point (half a count): keeps slopes finite at rates of 0 and 1.
HALF_COUNT = 0.5
NEWTON_STEPS = 50


@dataclass(frozen=True)
class Trend:
    """Change of one rate with size. slope: logit per tenfold N, low to high. dispersion: 1 is binomial."""

    metric: str
    slope: float
    low: float
    high: float
    dispersion: float
    n_points: int
    n_sizes: int

    @property
    def verdict(self) -> str:
        """``rises with size``, ``falls with size``, or ``within noise`` where the interval holds 0."""
        if self.low > 0:
            return RISES
        return FALLS if self.high < 0 else WITHIN_NOISE


def rate_trends(
    points: Sequence[Point], metrics: Sequence[str], confidence: float = 0.95
) -> dict[str, Trend]:
    """The trend of each metric that at least two sizes have; points without it are passed over."""
    trends = {}
    for metric in metrics:
        having = [p for p in points if metric in p.rates and p.rates[metric].trials]
        if len({p.n_parameters for p in having}) >= 2:
            n = np.array([p.n_parameters for p in having], dtype=float)
            trends[metric] = _trend(metric, n, [p.rates[metric] for p in having], confidence)
    return trends


def metric_names(points: Sequence[Point], reference_scores: Mapping[str, Rate]) -> list[str]:
    """All rates that a point or the real data have, molecules before crystals, then by name."""
    names = {name for p in points for name in p.rates} | set(reference_scores)
    return sorted(names, key=lambda name: (not name.startswith("molecule/"), name))


def _trend(metric: str, n: Array, rates: Sequence[Rate], confidence: float) -> Trend:
    trials = np.array([r.effective_trials or r.trials for r in rates], dtype=float)
    successes = np.array([r.value for r in rates]) * trials + HALF_COUNT
    trials = trials + 2 * HALF_COUNT
    x = np.log10(n)
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)
    coefficients, covariance = _logistic(design, successes, trials)
    fitted = expit(design @ coefficients)
    pearson = float(((successes - trials * fitted) ** 2 / (trials * fitted * (1 - fitted))).sum())
    dof = len(n) - 2
    dispersion = max(1.0, pearson / dof) if dof else 1.0
    tail = 0.5 + confidence / 2
    # A dispersion that the points themselves had to show is known only as well as they are many.
    quantile = stats.t.ppf(tail, dof) if dispersion > 1 else stats.norm.ppf(tail)
    half_width = float(quantile * math.sqrt(dispersion * covariance[1, 1]))
    slope = float(coefficients[1])
    return Trend(metric, slope, slope - half_width, slope + half_width, dispersion, len(n), len(np.unique(n)))


def _logistic(design: Array, successes: Array, trials: Array) -> tuple[Array, Array]:
    """Maximum likelihood coefficients and their covariance, by Newton steps (concave: one optimum)."""
    share = successes.sum() / trials.sum()
    coefficients = np.array([math.log(share / (1 - share)), 0.0])
    covariance = np.eye(2)
    for _ in range(NEWTON_STEPS):
        fitted = expit(design @ coefficients)
        information = design.T @ (design * (trials * fitted * (1 - fitted))[:, None])
        covariance = np.linalg.inv(information)
        step = covariance @ (design.T @ (successes - trials * fitted))
        coefficients = coefficients + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    return coefficients, covariance
