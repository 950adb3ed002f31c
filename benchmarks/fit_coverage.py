"""How often 95% intervals hold what was planted, over simulated studies: α, β, E and the held-out largest
size.

    python benchmarks/fit_coverage.py [--studies 500] [--bootstrap 200] [--jobs 2]

Value: the stated intervals (profile). Baseline: the bootstrap by run of the first 200 of the studies; for
the held-out size the interval of the law alone, without the noise of a new run. Designs with a note are those
where a parameter is on its bound or not identified. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from fit_designs import DESIGNS, Design
from record import RESULTS, record, row, write

from adit_scale.scaling.results import Estimate, Interval
from adit_scale.scaling.size_law import fit_law
from adit_scale.scaling.surface import Surface, fit_surface_arrays

BOOTSTRAPPED = 200  # studies of each design that are also resampled, for the baseline
# By quantity: (stated holds it, baseline holds it, width of the stated interval), NaN where there is none.
Outcome = dict[str, list[tuple[float, float, float]]]


def judge(estimate: Estimate, planted: float) -> tuple[float, float, float]:
    assert estimate.interval is not None
    boot = np.nan if estimate.bootstrap is None else float(planted in estimate.bootstrap)
    return float(planted in estimate.interval), boot, estimate.interval.high - estimate.interval.low


def judge_prediction(
    interval: Interval, alone: tuple[float, float], measured: float
) -> tuple[float, float, float]:
    """Width relative to the loss."""
    inside = float(measured in interval), float(alone[0] <= measured <= alone[1])
    return *inside, (interval.high - interval.low) / measured


def study(design: Design, bootstrap: int, seed: int, index: int) -> Outcome:
    """One simulated study, fitted, and fitted again without its largest size."""
    number = DESIGNS.index(design)
    n, d, loss, run = design.simulate(np.random.default_rng([seed, number, index]))
    top = n == n.max()
    law = design.law
    bootstrap = bootstrap if index < BOOTSTRAPPED else 0
    if not design.surface:
        found = fit_law(n, loss, "offset", bootstrap=bootstrap, seed=index).estimates
        rest = fit_law(n[~top], loss[~top], "offset", bootstrap=0)
        _, interval = rest.predict(float(n.max()), n_runs=int(top.sum()))
        _, low, high = rest.curve(n[top][:1])
        assert interval is not None
        assert low is not None
        assert high is not None
        measured = float(np.exp(np.log(loss[top]).mean()))
        held = [judge_prediction(interval, (low[0], high[0]), measured)]
        return {"alpha": [judge(found["alpha"], law.exponent)], "E": [judge(found["E"], law.offset)],
                "held-out": held}  # fmt: skip
    fit = fit_surface_arrays(
        n, d, loss, trunk=run.tolist(), bootstrap=bootstrap, seed=index, hold_out_largest=False
    )
    keep = ~top
    rest_fit = fit_surface_arrays(
        n[keep], d[keep], loss[keep], trunk=run[keep].tolist(), bootstrap=0, hold_out_largest=False
    )
    assert isinstance(rest_fit.law, Surface)
    budgets = np.unique(d[top])
    _, lows, highs = rest_fit.law.band(np.full(len(budgets), n.max()), budgets)
    assert lows is not None
    assert highs is not None
    held = []
    for budget, low, high in zip(budgets, lows, highs, strict=True):
        runs = loss[top & (d == budget)]
        _, interval = rest_fit.law.predict(float(n.max()), float(budget), n_runs=len(runs))
        assert interval is not None
        held.append(judge_prediction(interval, (low, high), float(np.exp(np.log(runs).mean()))))
    found = fit.estimates
    return {"alpha": [judge(found["alpha"], law.exponent)], "beta": [judge(found["beta"], law.data_exponent)],
            "E": [judge(found["E"], law.offset)], "held-out": held}  # fmt: skip


def rows_of(design: Design, outcomes: Iterable[Outcome], seconds: float, n_studies: int) -> list[dict]:
    gathered: Outcome = {}
    for outcome in outcomes:
        for name, values in outcome.items():
            gathered.setdefault(name, []).extend(values)
    rows = []
    for name, values in gathered.items():
        stated, boot, width = np.array(values).T
        boot = boot[np.isfinite(boot)]
        more: dict[str, float | str] = {
            "median_width": float(np.median(width)),
            "studies": n_studies,
            "seconds_a_study": seconds,
        }
        if design.note:
            more["note"] = design.note
        what = f"coverage at 95% of {name}: {design.name}"
        baseline = "law without the new run's noise" if name == "held-out" else "bootstrap by run"
        rows.append(
            row(what, float(stated.mean()), baseline, float(boot.mean()) if len(boot) else 1.0, "", **more)
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=500, help="simulated studies of each design")
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--designs", default="", help="only designs whose name holds this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        for design in DESIGNS:
            if arguments.designs not in design.name:
                continue
            start = time.perf_counter()
            one = partial(study, design, arguments.bootstrap, arguments.seed)
            outcomes = list(pool.map(one, range(arguments.studies), chunksize=10))
            seconds = (time.perf_counter() - start) * arguments.jobs / arguments.studies
            rows += rows_of(design, outcomes, seconds, arguments.studies)
            print(
                *(
                    f"{r['what']}: {r['value']:.3f} ({r['baseline_value']:.3f})"
                    for r in rows[-3 - design.surface :]
                ),
                sep="\n",
                flush=True,
            )
    write("fit_coverage", record("fit_coverage", ["numpy", "scipy"], rows), arguments.out)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers, which start anew: small matrices
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
