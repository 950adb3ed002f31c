"""Training FLOPs a real atom by model size, as the runs of a study measured them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from adit_scale.scaling.laws import Array
from adit_scale.scaling.results import ModelCost
from adit_scale.scaling.study_data import Point


def model_costs(points: Sequence[Point]) -> list[ModelCost]:
    """Of each size, by N: its runs' FLOPs over their atoms. Runs without FLOPs or atoms tell nothing."""
    by_size: dict[tuple[int, str], list[Point]] = defaultdict(list)
    for point in points:
        if point.flops > 0 and point.atoms_seen > 0:
            by_size[point.n_parameters, point.size].append(point)
    return [
        ModelCost(size, n, _an_atom(runs, "flops"), _an_atom(runs, "flops_total"))
        for (n, size), runs in sorted(by_size.items())
    ]


def _an_atom(runs: Sequence[Point], attribute: str) -> float:
    return sum(getattr(p, attribute) for p in runs) / sum(p.atoms_seen for p in runs)


def flops_an_atom(costs: Sequence[ModelCost], n: Array | float, *, total: bool = False) -> Array:
    """C (or C_total) a real atom at ``n`` parameters: log-log lines through the sizes, their ends extended.

    One size alone stands for all in proportion to N. Needs at least one size.
    """
    assert costs
    by_n = {c.n_parameters: c.flops_total_an_atom if total else c.flops_an_atom for c in costs}
    x = np.log(np.array(sorted(by_n), dtype=float))
    y = np.log(np.array([by_n[k] for k in sorted(by_n)]))
    at = np.log(np.asarray(n, dtype=float))
    if len(x) == 1:
        return np.exp(y[0] + at - x[0])
    place = np.clip(np.searchsorted(x, at), 1, len(x) - 1)
    slope = (y[place] - y[place - 1]) / (x[place] - x[place - 1])
    return np.exp(y[place - 1] + slope * (at - x[place - 1]))
