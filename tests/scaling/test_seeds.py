"""Noise between runs that differ in seed alone, and loss against learning rate."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from adit_scale.scaling.basins import learning_rate_basins
from adit_scale.scaling.seeds import replicates, seed_noise
from tests.scaling.handmade import hand_point, noisy, planted_loss

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def test_sigma_is_pooled_over_sizes_with_its_interval():
    losses = {1e5: (1.0, 1.02), 1e6: (0.8, 0.81, 0.82)}
    points = [
        hand_point(n, 1e7, loss=loss, seed=seed)
        for n, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    noise = seed_noise(points)
    squares = sum(float(((np.log(v) - np.log(v).mean()) ** 2).sum()) for v in losses.values())
    assert noise.dof == 3
    assert noise.sigma.value == pytest.approx(math.sqrt(squares / 3))
    assert noise.sigma.interval.low == pytest.approx(math.sqrt(squares / stats.chi2.ppf(0.975, 3)))
    assert noise.sigma.interval.high == pytest.approx(math.sqrt(squares / stats.chi2.ppf(0.025, 3)))
    assert [(n, len(values)) for _, n, values in noise.by_size] == [(100_000, 2), (1_000_000, 3)]


def test_planted_noise_is_found():
    noise = noisy(0.004)
    points = [
        hand_point(n, 1e7, loss=noise(planted_loss(n, 1e7)), seed=seed)
        for n in np.geomspace(1e5, 1e7, 10)
        for seed in range(5)
    ]
    found = seed_noise(points)
    assert found.dof == 40
    assert 0.004 in found.sigma.interval


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 3e-3},
        {"atoms_seen": 20_000_000},
        {"precision": "bf16"},
        {"domain": "crystal"},
        {"validation_grid": "other"},
        {"axes": {"diffusion.optim.weight_decay": 0.1}},
        {"status": "failed"},
        {"final_loss": math.nan},
        {"seed": 0, "run": "same"},
    ],
)
def test_runs_that_differ_otherwise_are_no_repeats(change):
    first = hand_point(1e5, 1e7, seed=0, run="same")
    second = dataclasses.replace(hand_point(1e5, 1e7, seed=1, run="other"), **change)
    assert seed_noise([first, second]) is None


def test_what_a_sweep_calls_its_points_does_not_part_them():
    first = hand_point(1e5, 1e7, seed=0, axes={"model/denoiser": "dit_32", "seed": 0})
    second = hand_point(1e5, 1.01e7, seed=1, axes={"sweep.decays": 1.0, "sampling.steps": 50})
    assert len(replicates([first, second])) == 1


def basin_points(rates=RATES, optimum=1e-3, sigma=0.0, seeds=1, width=0.05):
    noise = noisy(sigma)
    return [
        hand_point(
            1e6,
            1e7,
            loss=noise(0.9 * math.exp(width * math.log10(lr / optimum) ** 2)),
            seed=seed,
            lr=lr,
            axes={"diffusion.optim.lr": lr},
            label=f"lr{lr:g}-{seed}",
        )
        for lr in rates
        for seed in range(seeds)
    ]


def test_the_optimum_of_a_planted_basin():
    (basin,) = learning_rate_basins([*basin_points(optimum=1.4e-3), hand_point(1e6, 4e7, lr=3e-3)])
    assert basin.optimum.value == pytest.approx(1.4e-3, rel=1e-6)
    assert basin.lr == list(RATES)
    assert not basin.at_edge
    assert basin.used == 3e-3
    assert basin.excess == pytest.approx(0.05 * math.log10(3 / 1.4) ** 2, rel=1e-6)


def test_the_interval_comes_from_seeds_or_scatter():
    inside = 0
    for k in range(100):
        points = basin_points(RATES, sigma=0.0, seeds=2)
        noise = noisy(0.003, k)
        points = [dataclasses.replace(p, final_loss=noise(p.final_loss)) for p in points]
        (basin,) = learning_rate_basins(points, seed_noise(points), bootstrap=400)
        inside += basin.optimum.interval is not None and 1e-3 in basin.optimum.interval
    assert 88 <= inside <= 99
    (three,) = learning_rate_basins(basin_points(RATES[1:4]))
    assert three.optimum.value == pytest.approx(1e-3)
    assert three.optimum.interval is None


@pytest.mark.parametrize(("optimum", "side"), [(3e-5, "lowest"), (5e-2, "highest")])
def test_an_optimum_at_the_edge_is_said(optimum, side):
    (basin,) = learning_rate_basins(basin_points(optimum=optimum))
    assert basin.at_edge
    assert basin.optimum is None
    assert f"{side} rate tried" in basin.note


def test_a_diverged_rate_bounds_the_basin():
    points = basin_points(RATES[:3], optimum=9e-4)
    points.append(dataclasses.replace(points[0], lr=3e-3, status="diverged", final_loss=math.nan, label="x"))
    (basin,) = learning_rate_basins(points)
    assert basin.loss[-1] == math.inf
    assert not basin.at_edge
    assert basin.optimum.value == pytest.approx(9e-4)


def test_a_rate_used_beside_the_parabola_is_read_between_the_rates_tried():
    (basin,) = learning_rate_basins([*basin_points(), hand_point(1e6, 4e7, lr=1e-4)])
    assert basin.excess == pytest.approx(0.05, rel=1e-6)
    (basin,) = learning_rate_basins([*basin_points(), hand_point(1e6, 4e7, lr=1e-6)])
    assert math.isnan(basin.excess)


def test_one_rate_is_no_basin():
    assert learning_rate_basins([hand_point(1e6, 1e7, seed=s) for s in range(3)]) == []
