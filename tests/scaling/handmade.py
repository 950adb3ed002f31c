"""Points made by hand from a planted L(N, D): any N and D, seeds, budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adit_scale.scaling.study_data import Point

# E, A, alpha, B, beta of L = E + A N^-alpha + B D^-beta: losses near 1 at 1e6 parameters and 1e7 atoms.
LAW = (0.45, 12.0, 0.30, 35.0, 0.28)
N_EXPONENT = 0.28 / 0.58
FLOPS = 6.0  # a parameter and atom


def planted_loss(n: float, d: float, law: tuple[float, ...] = LAW) -> float:
    offset, scale, alpha, data_scale, beta = law
    return offset + scale * n**-alpha + data_scale * d**-beta


def planted_optimum(flops: float, law: tuple[float, ...] = LAW) -> tuple[float, float]:
    """N and D of least loss at C = 6 N D: N = G (C/6)^(beta/(alpha+beta)) (arXiv 2203.15556, equation 4)."""
    _, scale, alpha, data_scale, beta = law
    g = (alpha * scale / (beta * data_scale)) ** (1 / (alpha + beta))
    n = g * (flops / FLOPS) ** (beta / (alpha + beta))
    return n, flops / FLOPS / n


def hand_point(n: float, d: float, *, loss: float | None = None, seed: int = 0, **fields: Any) -> Point:
    """A finished run of N, D with the planted loss, or another; C = 6 N D, C_total 2e6 FLOPs an atom more."""
    flops = FLOPS * n * d
    values: dict[str, Any] = {
        "label": f"n{n:.3g}-d{d:.3g}-seed{seed}",
        "size": f"dit_{round(math.sqrt(n) / 10)}",
        "n_parameters": round(n),
        "n_matrix_parameters": round(0.93 * n),
        "atoms_seen": round(d),
        "sets_seen": round(d / 18),
        "flops": flops,
        "flops_total": flops + 2e6 * d,
        "seed": seed,
        "final_loss": planted_loss(n, d) if loss is None else loss,
        "autoencoder_id": "a1b2c3d4",
        "data_fingerprint": "5e6f",
        "lr": 1e-3,
    }
    return Point(**(values | fields))


def noisy(sigma: float, rng_seed: int = 0) -> Callable[[float], float]:
    """A function that multiplies a loss by exp(sigma z), z normal and new at every call."""
    rng = np.random.default_rng(rng_seed)
    return lambda loss: loss * math.exp(sigma * rng.standard_normal())


def isoflop_points(
    budgets: Sequence[float],
    factors: Sequence[float],
    *,
    sigma: float = 0.0,
    seeds: int = 1,
    rng_seed: int = 0,
) -> list[Point]:
    """Sizes at ``factors`` times the planted optimum of the budgets' geometric mean, for every budget."""
    noise = noisy(sigma, rng_seed)
    centre, _ = planted_optimum(math.exp(float(np.mean(np.log(budgets)))))
    points = []
    for flops in budgets:
        for factor in factors:
            n = centre * factor
            d = flops / (FLOPS * n)
            points += [hand_point(n, d, loss=noise(planted_loss(n, d)), seed=s) for s in range(seeds)]
    return points
