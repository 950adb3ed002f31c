"""Claim: building keeps up with its sources, on any number of cores, in memory that does not grow with them.

    OMP_NUM_THREADS=1 python benchmarks/data_build.py --molecules 200000 --workers 2

Structures a second from an extended xyz file of made-up molecules of QM9's sizes to finished shards (cut,
parsed, checked, centred, split, shuffled, written, every digest taken), by processes of their own. The
baseline of one process is ASE's reader alone on the same file; that of several is one. Memory is the
builder's peak beside its peak for a tenth of the molecules. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
from dense_denoiser import QM9_HISTOGRAM
from record import RESULTS, record, row, write

BUILD = r"""
import re, sys, time
from pathlib import Path
from adit_scale.data.build import build
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Source
if __name__ == "__main__":
    source, out, workers = sys.argv[1:]
    start = time.perf_counter()
    build([Source(Path(source), "molecules")], Path(out), DataConfig(build_workers=int(workers)))
    seconds = time.perf_counter() - start
    print(seconds, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def write_molecules(path: Path, n: int) -> None:
    """Random atoms in as many rows as QM9's molecules have."""
    rng = np.random.default_rng(0)
    chances = np.array(QM9_HISTOGRAM) / sum(QM9_HISTOGRAM)
    symbols = np.array(["H", "C", "N", "O", "F"])
    with path.open("w") as file:
        for k, size in enumerate(rng.choice(len(chances), n, p=chances)):
            rows = zip(symbols[rng.integers(5, size=size)], rng.normal(size=(size, 3)) * 2, strict=True)
            atoms = "".join(f"{s} {x:.8f} {y:.8f} {z:.8f}\n" for s, (x, y, z) in rows)
            file.write(f'{size}\nProperties=species:S:1:pos:R:3 pbc="F F F" id=m{k}\n{atoms}')


def built(source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak MiB of the process that leads."""
    script = out.with_suffix(".py")
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(source), str(out), str(workers)]
    seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--molecules", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    n, few = options.molecules, options.molecules // 10
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, count in (("few", few), ("many", n)):
            write_molecules(folder / f"{name}.xyz", count)
        start = time.perf_counter()
        n_read = sum(1 for _ in islice(ase.io.iread(folder / "many.xyz", format="extxyz"), few))
        ase_rate = n_read / (time.perf_counter() - start)
        _, few_mib = built(folder / "few.xyz", folder / "few1", 1)
        one_s, one_mib = built(folder / "many.xyz", folder / "many1", 1)
        several_s, _ = built(folder / "many.xyz", folder / "many2", options.workers)
    several = f"{options.workers} processes"
    rows = [
        row("file to shards, 1 process", n / one_s, "ASE's reader alone", ase_rate, "molecules/s"),
        row(f"file to shards, {several}", n / several_s, "1 process", n / one_s, "molecules/s"),
        row(f"peak memory, {n:,} molecules", one_mib, f"{few:,} molecules", few_mib, "MiB"),
    ]
    write("data_build", record("building shards", ["numpy", "ase"], rows), options.out)


if __name__ == "__main__":
    main()
