"""How often the 95% interval of α holds the planted exponent, over simulated studies.

    python benchmarks/fit_coverage.py [--studies 500] [--bootstrap 400]

The baseline is the same resampling without the correction for the few degrees of freedom behind the noise.
Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from record import RESULTS, record, row, write

from adit_scale.scaling import resampling
from adit_scale.scaling.fit import fit_law

# (sizes, seeds a size, form, planted E, seed-to-seed deviation of log loss)
STUDIES = (
    (4, 1, "power", 0.0, 0.005),
    (5, 1, "power", 0.0, 0.005),
    (5, 2, "power", 0.0, 0.005),
    (8, 2, "power", 0.0, 0.005),
    (5, 1, "offset", 0.3, 0.002),
    (6, 1, "offset", 0.3, 0.005),
    (5, 2, "offset", 0.3, 0.002),
    (8, 2, "offset", 0.3, 0.005),
)
SCALE, EXPONENT = 8.0, 0.25


def coverage(study: tuple, n_studies: int, bootstrap: int) -> tuple[float, float]:
    """(share of studies whose interval holds the planted exponent, median width of the interval)."""
    sizes, seeds, form, offset, sigma = study
    n = np.repeat(np.geomspace(1e5, 3e7, sizes), seeds)
    held, widths = 0, []
    for i in range(n_studies):
        noise = sigma * np.random.default_rng([7, i]).standard_normal(len(n))
        interval = fit_law(
            n, (offset + SCALE * n**-EXPONENT) * np.exp(noise), form, bootstrap=bootstrap, seed=i
        ).exponent
        assert interval is not None
        held += EXPONENT in interval
        widths.append(interval.high - interval.low)
    return held / n_studies, float(np.median(widths))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    rows = []
    corrected = resampling.scale_factor
    for study in STUDIES:
        start = time.perf_counter()
        share, width = coverage(study, arguments.studies, arguments.bootstrap)
        seconds = (time.perf_counter() - start) / arguments.studies
        resampling.scale_factor = lambda rng, dof, size: np.ones(size)
        naive, _ = coverage(study, arguments.studies, arguments.bootstrap)
        resampling.scale_factor = corrected
        sizes, seeds, form, _, sigma = study
        what = f"coverage at 95%: {sizes} sizes, {seeds} seed{'s' * (seeds > 1)}, {form} law, noise {sigma}"
        more = {"median_width": width, "seconds_a_fit": seconds}
        rows.append(row(what, share, "uncorrected bootstrap", naive, "", **more))
    write("fit_coverage", record("fit_coverage", ["numpy", "scipy"], rows), arguments.out)


if __name__ == "__main__":
    main()
