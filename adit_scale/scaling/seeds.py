"""Runs that differ in seed alone, and the noise they show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from adit_scale.scaling.exclusions import SAME_DATA_TOLERANCE
from adit_scale.scaling.results import Estimate, Interval, SeedNoise
from adit_scale.scaling.study_data import Point

# Axes that a field of Point holds, or that change nothing a validation loss could see.
_HELD_BY_FIELDS = (
    "seed", "model/denoiser", "diffusion.steps", "diffusion.optim.lr", "diffusion.optim.schedule",
    "diffusion.optim.warmup_steps", "data.domain", "sampling", "evaluation", "sweep", "decay", "budget",
    "parallel",
)  # fmt: skip
_FIELDS = (
    "size", "n_parameters", "lr", "schedule", "parametrization", "precision", "domain", "domain_match",
    "autoencoder_id", "data_fingerprint", "validation_grid",
)  # fmt: skip


def log_final_loss(point: Point) -> float:
    """Natural log of the final validation loss; NaN where there is none."""
    return math.log(point.final_loss) if 0 < point.final_loss < math.inf else math.nan


def recipe(point: Point, *, but: Sequence[str] = ()) -> tuple[Any, ...]:
    """What makes two runs the same but for their seed and D, less the fields ``but``."""
    # Text, since nan (a rate not known) does not equal itself, and an axis may be a list.
    fields = (repr(getattr(point, name)) for name in _FIELDS if name not in but)
    others = sorted((k, repr(v)) for k, v in point.axes.items() if not k.startswith(_HELD_BY_FIELDS))
    return (*fields, *others)


def distinct_runs(points: Sequence[Point]) -> list[Point]:
    """Each run once: points that share one differ in sampling or evaluation alone."""
    return list({p.run or id(p): p for p in reversed(points)}.values())[::-1]


def same_data(points: Sequence[Point]) -> list[list[Point]]:
    """Groups of points that saw as many atoms, within 2% of the group's fewest, by D."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda p: p.atoms_seen):
        if groups and point.atoms_seen <= groups[-1][0].atoms_seen * (1 + SAME_DATA_TOLERANCE):
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def replicates(points: Sequence[Point], *, but: Sequence[str] = ()) -> list[list[Point]]:
    """Groups of runs that differ in seed alone (and in the fields ``but``), by N and D; of any length."""
    by_recipe: dict[tuple, list[Point]] = defaultdict(list)
    for point in distinct_runs(points):
        by_recipe[recipe(point, but=but)].append(point)
    groups = [group for alike in by_recipe.values() for group in same_data(alike)]
    return sorted(groups, key=lambda g: (g[0].n_parameters, g[0].atoms_seen))


def pooled_sigma(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[Estimate, int] | None:
    """Standard deviation within groups, pooled, with its interval by chi^2, and its degrees of freedom.

    None where no group has two values.
    """
    dof = sum(len(group) - 1 for group in groups)
    if not dof:
        return None
    squares = sum(float(((np.array(group) - np.mean(group)) ** 2).sum()) for group in groups)
    high, low = stats.chi2.ppf([0.5 - confidence / 2, 0.5 + confidence / 2], dof)
    interval = Interval(math.sqrt(squares / low), math.sqrt(squares / high))
    return Estimate(math.sqrt(squares / dof), interval), dof


def seed_noise(
    points: Sequence[Point],
    log_loss: Callable[[Point], float] = log_final_loss,
    confidence: float = 0.95,
) -> SeedNoise | None:
    """The spread of log loss between finished runs that differ in seed alone; None without such runs."""
    finished = [p for p in points if p.status == "done" and math.isfinite(log_loss(p))]
    groups = [g for g in replicates(finished) if len({p.seed for p in g}) > 1]
    values = [[log_loss(p) for p in group] for group in groups]
    pooled = pooled_sigma(values, confidence)
    if pooled is None:
        return None
    sigma, dof = pooled
    by_size = [
        (g[0].size, g[0].n_parameters, tuple(math.exp(v) for v in losses))
        for g, losses in zip(groups, values, strict=True)
    ]
    return SeedNoise(sigma, dof, by_size)
