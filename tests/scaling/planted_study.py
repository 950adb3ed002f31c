"""A study whose surface is known in closed form: what headline, tables and page must then say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adit_scale.scaling.exclusions import select_points
from adit_scale.scaling.results import Array, Estimate, HeldOut, Interval, ModelCost, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit

E, A, ALPHA, B, BETA = 0.45, 18.0, 0.31, 420.0, 0.43
N_EXPONENT = BETA / (ALPHA + BETA)


@dataclass(frozen=True)
class ClosedForm:
    """L = E + A N^-alpha + B D^-beta; draws scale A and B by the given factors (R,)."""

    factors: Array | None = None

    def __call__(self, n: Array | float, d: Array | float, unique: Array | float | None = None) -> Array:
        return np.asarray(E + A * np.asarray(n) ** -ALPHA + B * np.asarray(d) ** -BETA)

    def band(
        self, n: Array, d: Array, unique: Array | None = None
    ) -> tuple[Array, Array | None, Array | None]:
        draws = self.draws(n, d)
        low, high = (None, None) if draws is None else np.quantile(draws, (0.025, 0.975), axis=0)
        return self(n, d), low, high

    def draws(self, n: Array, d: Array, unique: Array | None = None) -> Array | None:
        return None if self.factors is None else E + self.factors[:, None] * (self(n, d) - E)

    def predict(
        self, n: float, d: float, unique: float | None = None, n_runs: int = 1
    ) -> tuple[float, Interval | None]:
        return float(self(n, d)), None


def planted_surface(labels: list[str], *, sure: bool = True) -> SurfaceFit:
    """sure: with intervals, by draws of A and B within 1%."""
    factors = np.linspace(0.99, 1.01, 201) if sure else None

    def estimate(value: float, width: float = 0.05) -> Estimate:
        return Estimate(value, Interval(value - width, value + width) if sure else None)

    return SurfaceFit(
        form="surface",
        law=ClosedForm(factors),
        estimates={
            "E": estimate(E),
            "A": estimate(A),
            "alpha": estimate(ALPHA),
            "B": estimate(B),
            "beta": estimate(BETA),
            "n_exponent": estimate(N_EXPONENT),
            "d_exponent": estimate(1 - N_EXPONENT),
        },
        sigma=0.004,
        dof=20,
        noise_text="scatter of runs about the law",
        rms_log_residual=0.0041,
        residuals=dict.fromkeys(labels, 0.001),
        used=labels,
        held_out=[HeldOut("dit_256", 13_600_000, 0.81, 0.8019, Interval(0.79, 0.82), -0.01, "surface", 4e7)],
    )


def linear_costs(sizes: dict[str, int]) -> list[ModelCost]:
    """6 N FLOPs an atom, encoder included."""
    return [ModelCost(size, n, 6.0 * n, 6.0 * n) for size, n in sizes.items()]


def planted_study(points: Sequence[Point], **changes: Any) -> StudyFit:
    """Fits of nothing but what ``changes`` gives."""
    nothing: dict[str, Any] = {
        "points": points,
        "selection": select_points(points),
        "size_law": None,
        "surface": None,
        "isoflop": None,
        "envelope": (),
        "links": {},
        "trends": {},
        "domains": {},
        "transfer": (),
        "basins": (),
        "seed_noise": None,
        "leave_one_out": (),
        "sensitivity": (),
        "costs": linear_costs({p.size: p.n_parameters for p in points}),
        "refusals": {},
        "warnings": (),
    }
    return StudyFit(**nothing | changes)
