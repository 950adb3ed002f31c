"""Rates through the loss: what a predicted loss means in valid samples.

rate = ceiling * sigmoid((midpoint - L) / width), by maximum binomial likelihood. The ceiling is what the real
data score through the autoencoder: samples are decoded by it, and no loss of the denoiser lifts them above.
Runs scatter by more than their samples do, so the covariance is widened by the Pearson dispersion where that
exceeds 1 (quasi-binomial: McCullagh and Nelder 1989, section 4.5), with Student's t for the points behind it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.laws import Array
from adit_scale.scaling.resampling import scale_factor, tails
from adit_scale.scaling.results import Estimate, Interval, LossLink
from adit_scale.scaling.study_data import Point

MIN_LOSSES = 3
# Losses that differ by less than this factor are one loss: no curve goes through them.
MIN_SPREAD = 1.02
N_DRAWS = 4000
CURVE_POINTS = 80
SCORING_STEPS = 200
MAX_CONDITION = 1e12  # of the information matrix
# Half a success in one more trial of each point at half the ceiling: finite at rates of 0 and of the ceiling.
HALF_COUNT = 0.5


def alike_sampled(points: Sequence[Point]) -> list[Point]:
    """The points whose samples were drawn in the commonest way: solver, steps and guidance."""

    def way(point: Point) -> tuple[str, int, str]:
        return point.solver, point.sampling_steps, repr(point.guidance)

    counts = Counter(way(p) for p in points if p.rates)
    return [p for p in points if p.rates and way(p) == counts.most_common(1)[0][0]] if counts else []


def loss_links(
    points: Sequence[Point],
    metrics: Sequence[str],
    ceilings: Mapping[str, Rate],
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[dict[str, LossLink], dict[str, str]]:
    """The link of each metric, and of each one without the reason why.

    points: finished, with comparable losses, drawn alike. ceilings: rates of the real data through the
    autoencoder, by metric; 1 is taken where there is none, and said.
    """
    links, refusals = {}, {}
    for metric in metrics:
        having = [p for p in points if metric in p.rates and p.rates[metric].trials and p.final_loss > 0]
        try:
            links[metric] = _link(metric, having, ceilings.get(metric), seed, confidence)
        except DataError as error:
            refusals[metric] = str(error)
    return links, refusals


def _link(
    metric: str, points: Sequence[Point], ceiling: Rate | None, seed: int, confidence: float
) -> LossLink:
    loss = np.array([p.final_loss for p in points], dtype=float)
    if len(set(loss)) < MIN_LOSSES or loss.max() < MIN_SPREAD * loss.min():
        raise DataError(
            f"{metric}: {len(set(loss))} losses with this rate, within {_spread(loss):.1%}; expected "
            f"at least {MIN_LOSSES} over {MIN_SPREAD - 1:.0%}: add sizes"
        )
    rates = [p.rates[metric] for p in points]
    if not any(r.successes for r in rates):
        raise DataError(
            f"{metric}: no success in {sum(r.trials for r in rates)} samples; train longer or larger"
        )
    top = ceiling.value if ceiling is not None and ceiling.trials else 1.0
    if top <= 0:
        raise DataError(f"{metric}: real data score 0 through the autoencoder; train a better autoencoder")
    # Points of equal worth where trials come in clusters (atoms of one molecule).
    worth = np.array([r.effective_trials or r.trials for r in rates], dtype=float)
    trials = worth + 2 * HALF_COUNT
    successes = np.array([r.value for r in rates]) * worth + HALF_COUNT * top
    centre = float(loss.mean())
    design = np.stack([np.ones_like(loss), centre - loss], axis=1)
    try:
        theta, covariance = _scored(design, successes, trials, top)
    except DataError as error:
        raise DataError(f"{metric}: {error}") from error
    fitted = top * expit(design @ theta)
    dof = len(loss) - 2
    pearson = float(((successes - trials * fitted) ** 2 / (trials * fitted * (1 - fitted))).sum())
    dispersion = max(1.0, pearson / dof)
    rng = np.random.default_rng(seed)
    normal = rng.multivariate_normal(np.zeros(2), dispersion * covariance, N_DRAWS)
    draws = theta + normal * scale_factor(rng, dof if dispersion > 1 else math.inf, N_DRAWS)[:, None]
    midpoint, width, note = _parameters(theta, draws, centre, confidence)
    notes = [note] if note else []
    if ceiling is None or not ceiling.trials:
        notes.append("no ceiling measured: 100% taken")
    if max(r.value for r in rates) > top:
        notes.append("some rates lie above what real data score through the autoencoder")
    return LossLink(
        metric=metric,
        ceiling=top,
        midpoint=midpoint,
        width=width,
        dispersion=dispersion,
        curve=_curve(theta, draws, centre, loss, top, confidence),
        n_points=len(points),
        note="; ".join(notes),
    )


def _spread(loss: Array) -> float:
    return float(loss.max() / loss.min() - 1) if len(loss) else 0.0


def _scored(design: Array, successes: Array, trials: Array, ceiling: float) -> tuple[Array, Array]:
    """Maximum likelihood (intercept, slope) of p = ceiling * sigmoid(design @ theta), and its covariance.

    Fisher scoring with halved steps where the likelihood would fall: with a ceiling it need not be concave.
    """

    def deviance(theta: Array) -> float:
        p = np.clip(ceiling * expit(design @ theta), 1e-12, 1 - 1e-12)
        return -float((successes * np.log(p) + (trials - successes) * np.log1p(-p)).sum())

    share = min(max(successes.sum() / trials.sum() / ceiling, 0.01), 0.99)
    theta = np.array([math.log(share / (1 - share)), 0.0])
    covariance = np.eye(2)
    for _ in range(SCORING_STEPS):
        sigmoid = expit(design @ theta)
        p = np.clip(ceiling * sigmoid, 1e-12, 1 - 1e-12)
        slope = np.maximum(p * (1 - sigmoid), 1e-12)  # dp / d(linear)
        information = design.T @ (design * (trials * slope**2 / (p * (1 - p)))[:, None])
        if np.linalg.cond(information) > MAX_CONDITION:
            raise DataError("the rate is 0 or at its ceiling at nearly every loss; nothing to link")
        covariance = np.linalg.inv(information)
        step = covariance @ (design.T @ ((successes - trials * p) * slope / (p * (1 - p))))
        before = deviance(theta)
        while deviance(theta + step) > before and np.abs(step).max() > 1e-10:
            step = step / 2
        theta = theta + step
        if np.abs(step).max() < 1e-8:
            break
    return theta, covariance


def _parameters(
    theta: Array, draws: Array, centre: float, confidence: float
) -> tuple[Estimate, Estimate, str]:
    """Midpoint and width with intervals, None where the slope may be 0: the rate then may not follow."""

    def both(t: Array) -> tuple[Array, Array]:
        return centre + t[..., 0] / t[..., 1], 1 / t[..., 1]

    values = [float(v) for v in both(theta)] if theta[1] > 0 else [math.nan, math.nan]
    if theta[1] <= 0 or float((draws[:, 1] <= 0).mean()) > tails(confidence)[0]:
        note = "no rise of the rate as the loss falls, beyond the noise"
        return Estimate(values[0], identified=False), Estimate(values[1], identified=False), note
    rising = draws[draws[:, 1] > 0]
    ends = [np.quantile(column, tails(confidence)) for column in both(rising)]
    midpoint, width = (
        Estimate(value, Interval(float(low), float(high)))
        for value, (low, high) in zip(values, ends, strict=True)
    )
    return midpoint, width, ""


def _curve(
    theta: Array, draws: Array, centre: float, loss: Array, ceiling: float, confidence: float
) -> tuple[Array, Array, Array, Array]:
    """Loss (K,), rate and its interval over the losses seen and a tenth of their range beside."""
    margin = 0.1 * float(loss.max() - loss.min())
    grid = np.linspace(float(loss.min()) - margin, float(loss.max()) + margin, CURVE_POINTS)
    linear = np.stack([np.ones_like(grid), centre - grid])
    low, high = np.quantile(ceiling * expit(draws @ linear), tails(confidence), axis=0)
    return grid, ceiling * expit(theta @ linear), low, high
