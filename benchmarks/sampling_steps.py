"""Time and validity against the number of sampling steps, by solver, of one trained denoiser.

    python benchmarks/sampling_steps.py --denoiser RUN/weights --autoencoder AUTOENCODER/weights
        [--samples 500] [--steps 10 25 50 100 200] [--solvers euler heun midpoint] [--figure FOLDER]

Every point draws the same samples, from the same noise and of the same sizes, and scores them by one code.
A solver of second order evaluates twice a step, so validity is to be compared at equal evaluations. The
baseline of each row is Euler at 100 steps in the same run. Prints JSON and writes it to benchmarks/results/;
``--figure`` also draws sampling_steps.png and .csv.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from dense_sampler import MP20_HISTOGRAM, QM9_HISTOGRAM
from record import RESULTS, record, row, write

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.diffusion.conditions import draw_sizes
from adit_scale.diffusion.config import SOLVER_NAMES, SamplingConfig
from adit_scale.diffusion.solvers import n_evaluations_of
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.draw import draw_samples
from adit_scale.evaluation.pictures.figures import write_drawn
from adit_scale.evaluation.pictures.frames import style
from adit_scale.evaluation.pictures.sampling_cost import Measurement, cost_figure
from adit_scale.evaluation.score import score_sets
from adit_scale.training.weights import load_autoencoder, load_denoiser

BASELINE = ("euler", 100)
RATES = ("molecule/edm_atom_stability", "molecule/edm_validity", "crystal/validity")


def measure(arguments: argparse.Namespace) -> list[Measurement]:
    """One measurement a solver and number of steps."""
    autoencoder, denoiser = load_autoencoder(arguments.autoencoder), load_denoiser(arguments.denoiser)
    histograms = {MOLECULE: np.array(QM9_HISTOGRAM), CRYSTAL: np.array(MP20_HISTOGRAM)}
    half = arguments.samples // 2
    sizes = {domain: draw_sizes(h, half, domain, seed=0) for domain, h in histograms.items()}
    scoring = EvaluationConfig(
        protocols=["edm"], crystal_uniqueness=False, novelty=False, processes=arguments.processes
    )
    few = {domain: of[:4] for domain, of in sizes.items()}
    draw_samples(
        denoiser, autoencoder, few, SamplingConfig(steps=3, precision=arguments.precision)
    )  # warm-up
    found = []
    for solver in arguments.solvers:
        for steps in arguments.steps:
            sampling = SamplingConfig(steps=steps, solver=solver, precision=arguments.precision)
            begin = time.perf_counter()
            samples = draw_samples(denoiser, autoencoder, sizes, sampling)
            seconds = time.perf_counter() - begin
            scores = score_sets(samples[MOLECULE], samples[CRYSTAL], scoring)
            found.append(
                Measurement(
                    solver=solver,
                    steps=steps,
                    evaluations=n_evaluations_of(solver, steps),
                    seconds=seconds,
                    samples=2 * half,
                    rates={name: scores.rates[name] for name in RATES if name in scores.rates},
                )
            )
            print(f"{solver}, {steps} steps: {seconds:.1f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--denoiser", type=Path, required=True, help="weights folder of a diffusion run")
    parser.add_argument("--autoencoder", type=Path, required=True, help="weights folder of its autoencoder")
    parser.add_argument("--samples", type=int, default=500, help="half of them molecules")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100, 200])
    parser.add_argument("--solvers", nargs="+", choices=SOLVER_NAMES, default=list(SOLVER_NAMES))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=0, help="for scoring; 0 is one a core")
    parser.add_argument("--figure", type=Path, help="folder for the figure")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    if BASELINE[0] not in arguments.solvers or BASELINE[1] not in arguments.steps:
        parser.error("the baseline, euler at 100 steps, has to be among --solvers and --steps")
    torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    (base,) = [m for m in found if (m.solver, m.steps) == BASELINE]
    rows = [
        row(
            f"sampling, {m.solver}, {m.steps} steps",
            m.samples / m.seconds,
            "euler, 100 steps",
            base.samples / base.seconds,
            "samples/s",
            measurement=m.to_json(),
        )
        for m in found
    ]
    write("sampling_steps", record("sampling_steps", ["torch", "rdkit", "smact"], rows), arguments.out)
    if arguments.figure is not None:
        with style():
            write_drawn([cost_figure(found, RATES)], "Sampling steps", arguments.figure)


if __name__ == "__main__":
    main()
