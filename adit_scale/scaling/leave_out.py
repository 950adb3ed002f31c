"""Each size in turn predicted from all others: where a law holds, and where one size carries it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from adit_scale.errors import DataError
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.fit import MIN_SIZES, fit_points
from adit_scale.scaling.results import HeldOut, Interval
from adit_scale.scaling.seeds import same_data
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.surface import fit_surface


def leave_one_size_out(
    points: Sequence[Point], max_leakage: float = SweepConfig.max_leakage, *, seed_noise: float | None = None
) -> list[HeldOut]:
    """Of the ``points`` of an L(N) fit: each size from the others, by N; none where too few would be left.

    The law takes the form that the other sizes support. The interval is of what was measured there: the
    mean of that size's seeds.
    """
    sizes = sorted({p.n_parameters for p in points})
    if len(sizes) <= MIN_SIZES:
        return []
    held_out = []
    for size in sizes:
        rest = [p for p in points if p.n_parameters != size]
        law = fit_points(
            rest, bootstrap=0, hold_out_largest=False, seed_noise=seed_noise, max_leakage=max_leakage
        ).fit
        runs = [p for p in points if p.n_parameters == size]
        predicted = law.predict(size, n_runs=len(runs))
        held_out.append(_held_out(runs, *predicted, law.form))
    return held_out


def leave_one_size_out_of_surface(
    points: Sequence[Point], *, seed_noise: float | None = None
) -> list[HeldOut]:
    """Of the ``points`` of an L(N, D) fit: each size at its largest D from the other sizes, by N."""
    held_out = []
    for size in sorted({p.n_parameters for p in points}):
        rest = [p for p in points if p.n_parameters != size]
        runs = same_data([p for p in points if p.n_parameters == size])[-1]
        with suppress(DataError):  # the sizes left do not carry a surface
            fit = fit_surface(rest, bootstrap=0, seed_noise=seed_noise, hold_out_largest=False)
            d = float(np.mean([p.atoms_seen for p in runs]))
            unique = runs[0].unique_atoms if fit.form == "repeats" and runs[0].unique_atoms > 0 else None
            held_out.append(_held_out(runs, *fit.law.predict(size, d, unique, len(runs)), fit.form))
    return held_out


def _held_out(runs: Sequence[Point], predicted: float, interval: Interval | None, form: str) -> HeldOut:
    measured = math.exp(float(np.mean([math.log(p.final_loss) for p in runs])))
    return HeldOut(
        size=runs[0].size,
        n_parameters=runs[0].n_parameters,
        measured=measured,
        predicted=predicted,
        interval=interval,
        error=predicted / measured - 1.0,
        form=form,
        atoms_seen=float(np.mean([p.atoms_seen for p in runs])),
    )
