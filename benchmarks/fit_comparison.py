"""Fits of L(N, D) as people write them, against ours, on the same simulated studies; and how long ours takes.

    python benchmarks/fit_comparison.py [--studies 200] [--jobs 2]

Baselines: scipy's curve_fit on the loss itself, from a start its users take (E the smallest loss, exponents
0.5); 10 random starts of L-BFGS-B with numeric gradients on the Huber loss of log loss (δ = 1e-3), as a mean
and as a sum. A fit fails when it raises, when an exponent is off by more than half of the planted one, or
(where it minimises the Huber loss) when it ends more than 1% above the best of all fits. Errors are relative
to the planted value, for the held-out size to the measured loss. Prints JSON and writes it to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from fit_designs import DESIGNS, Array, Design
from record import RESULTS, record, row, write
from scipy.optimize import OptimizeWarning, curve_fit, minimize

from adit_scale.scaling.laws import fit_surfaces
from adit_scale.scaling.solver import HUBER_DELTA, huber
from adit_scale.scaling.surface import fit_surface_arrays

USED = tuple(d for d in DESIGNS if d.surface and not d.note)
METHODS = ("curve_fit", "L-BFGS, mean", "L-BFGS, sum", "ours")
EXPONENTS = (2, 4)  # places of α and β in (E, A, α, B, β)
STARTS = 10
Fit = Callable[[Array, Array, Array, np.random.Generator], tuple[Array, Array | None]]


def surface(inputs: tuple[Array, Array], e: float, a: float, alpha: float, b: float, beta: float) -> Array:
    n, d = inputs
    return e + a * n**-alpha + b * d**-beta


def textbook(n: Array, d: Array, loss: Array, rng: np.random.Generator) -> tuple[Array, Array | None]:
    """Least squares on the loss, and the intervals of its covariance (normal quantiles)."""
    del rng
    start = (loss.min(), 10.0, 0.5, 10.0, 0.5)
    found, covariance = curve_fit(surface, (n, d), loss, p0=start, maxfev=10_000)
    half = 1.96 * np.sqrt(np.diag(covariance))
    return found, np.stack([found - half, found + half])


def objective(theta: Array, n: Array, d: Array, loss: Array) -> float:
    """Summed Huber loss of (log E, log A, α, log B, β)."""
    terms = np.stack(
        [np.full_like(n, theta[0]), theta[1] - theta[2] * np.log(n), theta[3] - theta[4] * np.log(d)]
    )
    return float(huber(np.logaddexp.reduce(terms) - np.log(loss), HUBER_DELTA).sum())


def random_starts(
    n: Array, d: Array, loss: Array, rng: np.random.Generator, mean: bool
) -> tuple[Array, Array | None]:
    scale = 1.0 / len(n) if mean else 1.0
    best = None
    for _ in range(STARTS):
        start = rng.uniform((-1, 0, 0, 0, 0), (1, 25, 2, 25, 2))  # as in arXiv 2203.15556, appendix D.2
        found = minimize(lambda t: scale * objective(t, n, d, loss), start, method="L-BFGS-B")
        best = found if best is None or found.fun < best.fun else best
    assert best is not None
    theta = best.x
    return np.array([np.exp(theta[0]), np.exp(theta[1]), theta[2], np.exp(theta[3]), theta[4]]), None


def ours(n: Array, d: Array, loss: Array, rng: np.random.Generator) -> tuple[Array, Array | None]:
    del rng
    found = fit_surfaces(n, d, np.log(loss))
    columns = (found.offset, found.scale(0), found.exponent(0), found.scale(1), found.exponent(1))
    return np.array([float(c[0]) for c in columns]), None


FITS: dict[str, Fit] = {
    "curve_fit": textbook,
    "L-BFGS, mean": partial(random_starts, mean=True),
    "L-BFGS, sum": partial(random_starts, mean=False),
    "ours": ours,
}


def study(seed: int, index: int) -> dict[str, dict[str, Array | float]]:
    """By method: found (5,), held: relative error of the held-out size at its largest D, value: of the summed
    Huber loss, covered (3,): α, β, E inside the stated interval, NaN where none is stated."""
    design = USED[index % len(USED)]
    n, d, loss, run = design.simulate(np.random.default_rng([seed, 7, index]))
    top = n == n.max()
    budget = d[top].max()
    measured = float(np.exp(np.log(loss[top & (d == budget)]).mean()))
    outcome: dict[str, dict[str, Array | float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow of a bad start is the method's own
        warnings.simplefilter("ignore", OptimizeWarning)
        for name, fit in FITS.items():
            rng = np.random.default_rng([seed, 8, index])
            found, held, ends, value = np.full(5, np.nan), np.nan, None, np.inf
            try:
                found, ends = fit(n, d, loss, rng)
                rest, _ = fit(n[~top], d[~top], loss[~top], rng)
                held = abs(float(surface((n.max(), budget), *rest)) / measured - 1.0)
                with np.errstate(divide="ignore", invalid="ignore"):
                    theta = [np.log(found[0]), np.log(found[1]), found[2], np.log(found[3]), found[4]]
                value = objective(np.array(theta), n, d, loss)
            except RuntimeError:  # curve_fit does not converge
                pass
            outcome[name] = {"found": found, "held": held, "value": value, "covered": covered(ends, design)}
    stated = fit_surface_arrays(n, d, loss, trunk=run.tolist(), bootstrap=0, hold_out_largest=False).estimates
    ends = np.array([[getattr(stated[k].interval, side) for k in ("E", "A", "alpha", "B", "beta")]
                     for side in ("low", "high")])  # fmt: skip
    outcome["ours"]["covered"] = covered(ends, design)
    return outcome


def planted(design: Design) -> Array:
    law = design.law
    return np.array([law.offset, law.scale, law.exponent, law.data_scale, law.data_exponent])


def covered(ends: Array | None, design: Design) -> Array:
    """α, β, E."""
    if ends is None:
        return np.full(3, np.nan)
    inside = (ends[0] <= planted(design)) & (planted(design) <= ends[1])
    return inside[[2, 4, 0]].astype(float)


def rows_of(outcomes: list[dict[str, dict[str, Array | float]]]) -> list[dict]:
    truth = np.array([planted(USED[i % len(USED)]) for i in range(len(outcomes))])
    best = np.array([min(float(o[m]["value"]) for m in METHODS) for o in outcomes])
    table: dict[str, dict[str, float]] = {}
    for method in METHODS:
        found = np.array([o[method]["found"] for o in outcomes])
        error = np.abs(found / truth - 1.0)
        off = ~(error[:, EXPONENTS] <= 0.5).all(axis=1)
        worse = np.array([float(o[method]["value"]) for o in outcomes]) > 1.01 * best
        failed = off if method == "curve_fit" else off | worse  # curve_fit has another objective
        held = np.array([float(o[method]["held"]) for o in outcomes])
        table[method] = {"share of failed fits": float(failed.mean()),
                         "share with an exponent off by half": float(off.mean())}  # fmt: skip
        for name, values in (
            ("alpha", error[:, 2]),
            ("beta", error[:, 4]),
            ("E", error[:, 0]),
            ("held-out", held),
        ):
            values = np.where(np.isfinite(values), values, np.inf)
            table[method][f"median error of {name}"] = float(np.median(values))
            table[method][f"90th percentile of error of {name}"] = float(
                np.quantile(values, 0.9, method="higher")
            )
        inside = np.array([o[method]["covered"] for o in outcomes])
        if method in ("curve_fit", "ours"):
            for k, name in enumerate(("alpha", "beta", "E")):
                table[method][f"coverage at 95% of {name}"] = float(
                    np.nanmean(np.append(inside[:, k], np.nan))
                )
    rows = []
    for what in table["ours"]:
        for method in METHODS[:-1]:
            if what in table[method]:
                rows.append(difference(what, table["ours"][what], method, table[method][what]))
    return rows


def difference(what: str, value: float, method: str, baseline: float) -> dict:
    """A row; the ratio is left out where the baseline is 0 or has no finite value."""
    finite = np.isfinite(baseline) and baseline > 0
    found = row(what, value, method, baseline if finite else 1.0, "")
    return found if finite else {**found, "baseline_value": str(baseline), "ratio": None}


def speed() -> dict:
    """One surface of 100 points with 1,000 resamples against the time stated as the limit."""
    design = next(d for d in USED if d.trunk)
    n, d, loss, run = design.simulate(np.random.default_rng(3))
    repeat = -(-100 // len(n))
    n, d = np.tile(n, repeat)[:100], np.tile(d, repeat)[:100]
    loss = design.law(n, d) * np.exp(0.003 * np.random.default_rng(4).standard_normal(100))
    trunk = [f"{k // len(run)}-{run[k % len(run)]}" for k in range(100)]
    start = time.perf_counter()
    fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=1000)
    seconds = time.perf_counter() - start
    return row(
        "full fit of 100 points, 1,000 resamples, the largest size held out", seconds, "limit", 60.0, "s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        outcomes = list(pool.map(partial(study, arguments.seed), range(arguments.studies), chunksize=5))
    rows = [*rows_of(outcomes), speed()]
    write("fit_comparison", record("fit_comparison", ["numpy", "scipy"], rows), arguments.out)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers, which start anew: small matrices
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
