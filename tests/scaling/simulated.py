"""Simulated studies: points of a planted law with seed noise, loss curves and rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.study_data import LossCurve, Point

SIZES = {
    "dit_32": 87_000,
    "dit_64": 410_000,
    "dit_128": 1_650_000,
    "dit_192": 4_200_000,
    "dit_256": 9_800_000,
}


def simulated_points(
    sizes: dict[str, int] | None = None,
    *,
    offset: float = 0.3,
    scale: float = 8.0,
    exponent: float = 0.25,
    noise: float = 0.003,
    seeds: Sequence[int] = (0,),
    atoms: int = 40_000_000,
    rng_seed: int = 0,
) -> list[Point]:
    """One point a size and seed: L = offset + scale·N^-exponent, times exp(noise·normal)."""
    rng = np.random.default_rng(rng_seed)
    return [
        _point(
            name,
            n,
            seed,
            (offset + scale * n**-exponent) * math.exp(noise * rng.standard_normal()),
            atoms,
            rng,
        )
        for name, n in (sizes or SIZES).items()
        for seed in seeds
    ]


def _point(size: str, n: int, seed: int, loss: float, atoms: int, rng: np.random.Generator) -> Point:
    flops = 6.6 * n * atoms
    share = np.linspace(0.02, 1, 40)
    decay = np.where(share > 0.7, 0.06 * (1 - share) / 0.3, 0.06)  # the last part of the schedule pays off
    curve = loss * (1 + decay + 0.5 * (share**-0.35 - 1)) * np.exp(0.004 * rng.standard_normal(40))
    curve[-1] = loss
    steps = (share * 3000).astype(int).tolist()
    quality = math.log10(n) - 6.2

    def rate(logit: float, trials: int = 1000) -> Rate:
        return Rate(int(rng.binomial(trials, 1 / (1 + math.exp(-logit)))), trials)

    rates = {
        "molecule/edm_validity": rate(-1.0 + 0.02 * quality),
        "molecule/edm_molecule_stability": rate(-4.0 + 0.6 * quality),
        "crystal/validity": rate(0.8 + 0.7 * quality),
        "crystal/structural_validity": rate(1.9 + 0.9 * quality),
        "crystal/compositional_validity": rate(1.5 + 0.4 * quality),
    }
    return Point(
        label=f"{size}-seed{seed}",
        size=size,
        n_parameters=n,
        n_matrix_parameters=int(0.93 * n),
        atoms_seen=atoms,
        sets_seen=atoms // 18,
        epochs=atoms / 18 / 15_000,
        flops=flops,
        flops_total=flops + 2e6 * atoms,
        seed=seed,
        final_loss=loss,
        constant_loss=27.5,
        curve=LossCurve(steps, (share * flops).tolist(), curve.tolist()),
        rates=rates,
        autoencoder_id="a1b2c3d4",
        data_fingerprint="5e6f",
    )


REFERENCE = {
    "molecule/edm_validity": Rate(980, 1000),
    "molecule/edm_molecule_stability": Rate(958, 1000),
    "crystal/validity": Rate(884, 1000),
    "crystal/structural_validity": Rate(1000, 1000),
    "crystal/compositional_validity": Rate(884, 1000),
}
