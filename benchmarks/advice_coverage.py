"""Claim: the 95% intervals of an advice hold the truth in about 95% of simulated studies.

    python benchmarks/advice_coverage.py

Each study has six sizes at four amounts of data, the decays of one trunk a size, and two more seeds of the
four smallest; log losses scatter by 0.003 between trunks and 0.002 between decays. Asked for are the
compute-optimal N, the loss there, the growth of N and the change of the loss at ten times the budget; at the
compute of the study's largest run and at 30 times as much. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from record import RESULTS, record, row, write

from adit_scale.models.ladder import LADDER, denoiser_parameters, training_flops
from adit_scale.scaling.advice import growth, optimum
from adit_scale.scaling.atom_cost import AtomCost
from adit_scale.scaling.results import Array, ModelCost
from adit_scale.scaling.surface import fit_surface_arrays

LAW = {"E": 0.5, "A": 20.0, "alpha": 0.32, "B": 300.0, "beta": 0.40}
SIZES = ("dit_32", "dit_64", "dit_96", "dit_128", "dit_192", "dit_256")
AMOUNTS = (2.5e7, 5e7, 1e8, 2e8)
SEEDED, MORE_SEEDS = 4, 2
TRUNK_NOISE, POINT_NOISE = 0.003, 0.002
ENCODER = 1e6  # FLOPs an atom
BUDGETS = (1, 30)  # times the largest run's compute
FIRST_SEED = 7_000_000
GRID = np.geomspace(1e4, 1e11, 100_000)


def planted(n: Array, d: Array) -> Array:
    return LAW["E"] + LAW["A"] * n ** -LAW["alpha"] + LAW["B"] * d ** -LAW["beta"]


def costs() -> AtomCost:
    found = []
    for name in SIZES:
        own = training_flops(LADDER[name], [16], 0.5) / 16
        found.append(ModelCost(name, denoiser_parameters(LADDER[name]), own, own + ENCODER))
    return AtomCost(found)


def design() -> tuple[Array, Array, np.ndarray]:
    """N, D and the trunk of each run."""
    sizes = np.array([float(denoiser_parameters(LADDER[name])) for name in SIZES])
    n, d = np.repeat(sizes, len(AMOUNTS)), np.tile(AMOUNTS, len(sizes))
    seeds = np.repeat(sizes[:SEEDED], MORE_SEEDS)
    trunk = np.r_[np.repeat(np.arange(len(sizes)), len(AMOUNTS)), len(sizes) + np.arange(len(seeds))]
    return np.r_[n, seeds], np.r_[d, np.full(len(seeds), 1e8)], trunk


def truths(cost: AtomCost, flops: float) -> tuple[float, float, float]:
    """Optimal N, its growth and the change of log loss at ten times the budget."""
    losses = [planted(GRID, c / cost(GRID)) for c in (flops, 10 * flops)]
    best = [int(loss.argmin()) for loss in losses]
    change = math.log(losses[1][best[1]] / losses[0][best[0]])
    return float(GRID[best[0]]), float(GRID[best[1]] / GRID[best[0]]), change


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    cost, (n, d, trunk) = costs(), design()
    largest = float((d * cost(n)).max())
    hits: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for study in range(args.studies):
        rng = np.random.default_rng(FIRST_SEED + study)
        noise = TRUNK_NOISE * rng.standard_normal(trunk.max() + 1)[trunk]
        loss = planted(n, d) * np.exp(noise + POINT_NOISE * rng.standard_normal(len(n)))
        fit = fit_surface_arrays(
            n, d, loss, trunk=trunk.tolist(), bootstrap=args.bootstrap, seed=study, hold_out_largest=False
        )
        for times in BUDGETS:
            flops = times * largest
            best, grown = optimum(fit.law, cost, flops), growth(fit.law, cost, flops)
            n_truth, growth_truth, change_truth = truths(cost, flops)
            there = float(planted(np.array(best.n.value), np.array(best.d.value)))
            for what, estimate, truth in (
                ("optimal N", best.n, n_truth),
                ("loss at the optimum", best.loss, there),
                ("growth of N", grown.n, growth_truth),
                ("change of the loss", grown.log_loss, change_truth),
            ):
                hits[what, times].append(estimate.interval is not None and truth in estimate.interval)
    rows = [
        row(f"{what} at {times}x the largest run's compute", 100 * float(np.mean(found)), "stated", 95.0, "%",
            studies=len(found))
        for (what, times), found in hits.items()
    ]  # fmt: skip
    write("advice_coverage", record("advice_coverage", ["numpy", "scipy"], rows), args.out)
    return 0 if all(90 <= r["value"] <= 99.5 for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
