"""Loss against learning rate at each size: where the optimum lies, and what the rate used costs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adit_scale.scaling.laws import Array
from adit_scale.scaling.parabolas import ParabolaNoise, monotonic_estimate, vertex, vertex_draws
from adit_scale.scaling.results import Basin, Estimate, SeedNoise
from adit_scale.scaling.seeds import replicates
from adit_scale.scaling.study_data import Point

LR_AXIS = "diffusion.optim.lr"
# Rates within this factor of the best one are taken as the parabola's; at least the three nearest.
WINDOW = 5.0
MIN_RATES = 3


def learning_rate_basins(
    points: Sequence[Point],
    seed_noise: SeedNoise | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Basin]:
    """One for every size (and D) at which runs differ in learning rate alone, by N and D.

    The optimum's interval holds the noise of seeds, or where there are none the scatter about the parabola;
    none where three rates leave nothing to see it by.
    """
    tried = [p for p in points if p.status in ("done", "diverged") and p.lr > 0]
    basins = []
    for group in replicates(tried, but=("lr",)):
        if len({p.lr for p in group}) > 1:
            basin, by_rate = _tabulated(group, points)
            noise = (seed_noise, bootstrap, seed, confidence)
            basins.append(_with_optimum(basin, by_rate, *noise))
    return basins


def _tabulated(group: Sequence[Point], points: Sequence[Point]) -> tuple[Basin, dict[float, list[float]]]:
    """The basin as measured, and log losses by rate; a rate at which any seed diverged has none."""
    by_rate: dict[float, list[float]] = defaultdict(list)
    for point in sorted(group, key=lambda p: p.lr):
        lost = point.status == "diverged" or not 0 < point.final_loss < math.inf
        by_rate[point.lr].append(math.inf if lost else math.log(point.final_loss))
    mean = [float(np.exp(np.mean(losses))) for losses in by_rate.values()]
    first = group[0]
    others = Counter(
        p.lr for p in points if p.size == first.size and p.lr > 0 and not p.domain and LR_AXIS not in p.axes
    )
    return Basin(
        size=first.size,
        n_parameters=first.n_parameters,
        lr=list(by_rate),
        loss=mean,
        optimum=None,
        at_edge=int(np.argmin(mean)) in (0, len(mean) - 1),
        used=others.most_common(1)[0][0] if others else math.nan,
        atoms_seen=float(first.atoms_seen),
    ), dict(by_rate)


def _with_optimum(
    basin: Basin,
    by_rate: dict[float, list[float]],
    seed_noise: SeedNoise | None,
    bootstrap: int,
    seed: int,
    confidence: float,
) -> Basin:
    rates = [rate for rate, losses in by_rate.items() if all(map(math.isfinite, losses))]
    if len(rates) < MIN_RATES:
        return replace(basin, note=f"{len(rates)} rates with a loss; an optimum takes {MIN_RATES}")
    if basin.at_edge:
        side = "lowest" if int(np.argmin(basin.loss)) == 0 else "highest"
        return replace(basin, note=f"loss is least at the {side} rate tried; the optimum may lie beyond")
    inside = _window(rates, basin)
    x = np.array([math.log10(rate) for rate in inside for _ in by_rate[rate]])
    y = np.array([loss for rate in inside for loss in by_rate[rate]])
    centre = float(x.mean())
    coefficients = np.polyfit(x - centre, y, 2)[::-1]
    offset, lowest = (float(v) for v in vertex(coefficients))
    if not min(x) < centre + offset < max(x):
        return replace(basin, note="the parabola through the lowest rates has no minimum between them")
    residual = y - np.polyval(coefficients[::-1], x - centre)
    dof = len(y) - 3
    sigma = math.sqrt(float((residual**2).sum()) / dof) if dof else 0.0
    if seed_noise is not None:
        sigma, dof = seed_noise.sigma.value, seed_noise.dof
    optimum = Estimate(10 ** (centre + offset))
    if dof:
        noise = ParabolaNoise.of(sigma, dof, bootstrap, seed, confidence)
        draws = vertex_draws(x - centre, y, noise)[0]
        optimum = monotonic_estimate(offset, draws, noise, lambda u: 10 ** (centre + u))
    excess = _excess(basin, coefficients, centre, lowest, (min(inside), max(inside)))
    return replace(basin, optimum=optimum, excess=excess)


def _window(rates: Sequence[float], basin: Basin) -> list[float]:
    best = basin.lr[int(np.argmin(basin.loss))]
    distance = {rate: abs(math.log(rate / best)) for rate in rates}
    reach = max(math.log(WINDOW), sorted(distance.values())[MIN_RATES - 1])
    return [rate for rate in rates if distance[rate] <= reach + 1e-9]


def _excess(
    basin: Basin, coefficients: Array, centre: float, lowest: float, window: tuple[float, float]
) -> float:
    """Log loss at the rate used above the optimum: by the parabola, beside its window by the rates tried."""
    if not basin.used > 0:
        return math.nan
    at = math.log10(basin.used)
    if window[0] <= basin.used <= window[1]:
        return float(np.polyval(coefficients[::-1], at - centre)) - lowest
    finite = [(math.log10(lr), math.log(loss)) for lr, loss in zip(basin.lr, basin.loss, strict=True)]
    x, y = np.array([pair for pair in finite if math.isfinite(pair[1])]).T
    return float(np.interp(at, x, y, left=math.nan, right=math.nan)) - lowest
