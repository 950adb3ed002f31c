"""The compute budgets of a study: which runs share one, and which of its sizes a parabola looks at."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.scaling.config import BUDGET_AXIS
from adit_scale.scaling.laws import Array
from adit_scale.scaling.study_data import Point

SAME_BUDGET = 1.15  # C of a budget's runs differ from their mean by this factor at most
MIN_SIZES = 4


@dataclass(frozen=True)
class Budget:
    """Runs of one budget by N: x = log10 N and y = log loss at exactly ``flops``, both (P,)."""

    flops: float
    points: Sequence[Point]
    x: Array
    y: Array

    @property
    def n_sizes(self) -> int:
        return len(np.unique(self.x))

    def window(self, factor: float) -> Array:
        """(P,) of bool: sizes within ``factor`` of the lowest loss, or the nearest ones that make four."""
        sizes, inverse = np.unique(self.x, return_inverse=True)
        mean = np.bincount(inverse, self.y) / np.bincount(inverse)
        distance = np.abs(sizes - sizes[mean.argmin()])
        reach = max(math.log10(factor), float(np.sort(distance)[min(MIN_SIZES, len(sizes)) - 1]))
        return distance[inverse] <= reach + 1e-9

    def parabola(self, factor: float) -> Array:
        """Least squares within the window: (c0, c1, c2) of y = c0 + c1 u + c2 u^2 over u = x - centre."""
        inside = self.window(factor)
        return np.polyfit(self.x[inside] - self.centre, self.y[inside], 2)[::-1]

    @property
    def centre(self) -> float:
        """Mean of x: about it the coefficients are well conditioned."""
        return float(self.x.mean())


def find_budgets(points: Sequence[Point]) -> list[Budget]:
    """By the sweep's axis of budgets where there is one, else of four or more sizes whose C is alike; by C.

    Losses are moved to the budget's own C (the geometric mean of its runs') along the slope of the budgets'
    lowest losses in log C.
    """
    by_axis: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        if point.flops > 0 and 0 < point.final_loss < math.inf:
            by_axis[str(point.axes.get(BUDGET_AXIS, ""))].append(point)
    left = by_axis.pop("", [])
    groups = [*by_axis.values(), *_alike_in_flops(left)]
    centres = [math.exp(float(np.mean([math.log(p.flops) for p in group]))) for group in groups]
    slope = 0.0
    if len(groups) > 1 and max(centres) > SAME_BUDGET * min(centres):
        lowest = [math.log(min(p.final_loss for p in group)) for group in groups]
        slope = float(np.polyfit(np.log(centres), lowest, 1)[0])
    pairs = sorted(zip(centres, groups, strict=True), key=lambda pair: pair[0])
    return [_budget(flops, group, slope) for flops, group in pairs]


def _budget(flops: float, group: Sequence[Point], slope: float) -> Budget:
    ordered = sorted(group, key=lambda p: (p.n_parameters, p.seed))
    y = [math.log(p.final_loss) + slope * math.log(flops / p.flops) for p in ordered]
    return Budget(flops, ordered, np.log10([p.n_parameters for p in ordered]), np.array(y))


def _alike_in_flops(points: Sequence[Point]) -> list[list[Point]]:
    """Groups of runs within 15% of their mean C, of four sizes or more, those of most sizes first."""
    left = sorted(points, key=lambda p: p.flops)
    groups = []
    while left:
        starting = [[q for q in left if p.flops <= q.flops <= SAME_BUDGET**2 * p.flops] for p in left]
        best = max(starting, key=lambda group: (len({p.n_parameters for p in group}), len(group)))
        if len({p.n_parameters for p in best}) < MIN_SIZES:
            break
        groups.append(best)
        taken = {id(p) for p in best}
        left = [p for p in left if id(p) not in taken]
    return groups
