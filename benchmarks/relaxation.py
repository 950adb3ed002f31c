"""How fast structures are relaxed: crystals with CHGNet, molecules with MMFF94 and GFN2-xTB.

python benchmarks/relaxation.py FILE.csv[.gz] MOLECULES.extxyz[.gz] [--crystals 40] [--molecules 200]

Crystals: the first of FILE with at most 20 atoms, rattled by 0.1 Å so that there is something to relax, by
the judge's own function against CHGNet's StructOptimizer in one process with the same optimiser and limits.
Molecules: the same number of processes against one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record, row, write

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Source, read_source
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.decode import to_pymatgen
from adit_scale.evaluation.energies.molecules import relax_molecules
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.relaxation import relax_crystals

MAX_ATOMS, NOISE_ANGSTROM = 20, 0.1
CONFIG = EnergyConfig(relax_limit_s=600)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("crystals_file", type=Path)
    parser.add_argument("molecules_file", type=Path)
    parser.add_argument("--crystals", type=int, default=40)
    parser.add_argument("--molecules", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [crystals_row(rattled(asked.crystals_file, asked.crystals), asked.processes)]
    molecules = first(asked.molecules_file, asked.molecules)
    rows += [molecules_row(molecules, method, asked.processes) for method in ("mmff", "xtb")]
    write("relaxation", record("relaxation", ["chgnet", "ase", "tblite", "rdkit", "torch"], rows))


def crystals_row(crystals: Sequence[AtomSet], processes: int) -> dict[str, Any]:
    """Seconds include the start of the processes and the loading of the model."""
    own_s, own = seconds(lambda: chgnets_own(crystals))
    ours_s, found = seconds(lambda: relax_crystals(crystals, Potential("chgnet"), CONFIG, processes))
    done = [r for r in found if r.fault is None]
    off = [abs(a.relaxed_energy - b) for a, b in zip(found, own, strict=True) if a.fault is None]
    return row(
        f"crystals of at most {MAX_ATOMS} atoms relaxed with CHGNet, {processes} processes",
        len(crystals) / ours_s,
        "StructOptimizer of chgnet, one process",
        len(crystals) / own_s,
        "crystals/s",
        relaxed=len(done),
        mean_atoms=float(np.mean([len(c) for c in crystals])),
        mean_evaluations=float(np.mean([r.steps for r in done])),
        median_energy_difference_ev_per_atom=float(np.median(off)),
        largest_energy_difference_ev_per_atom=float(np.max(off)),
    )


def molecules_row(molecules: Sequence[AtomSet], method: str, processes: int) -> dict[str, Any]:
    one_s, _ = seconds(lambda: relax_molecules(molecules, method, CONFIG, 1))
    all_s, found = seconds(lambda: relax_molecules(molecules, method, CONFIG, processes))
    return row(
        f"molecules relaxed with {method}, {processes} processes",
        len(molecules) / all_s,
        "one process",
        len(molecules) / one_s,
        "molecules/s",
        relaxed=sum(r.fault is None for r in found),
        mean_atoms=float(np.mean([len(m) for m in molecules])),
    )


def chgnets_own(crystals: Sequence[AtomSet]) -> list[float]:
    """eV/atom after the package's own relaxation, to the same limits."""
    from chgnet.model import CHGNet, StructOptimizer

    optimizer = StructOptimizer(CHGNet.load(use_device="cpu", verbose=False), "FIRE", use_device="cpu")
    energies = []
    for crystal in crystals:
        found = optimizer.relax(
            to_pymatgen(crystal),
            fmax=CONFIG.fmax_ev_per_angstrom,
            steps=CONFIG.max_steps,
            ase_filter="FrechetCellFilter",
            verbose=False,
        )
        trajectory: Any = found["trajectory"]
        energies.append(float(trajectory.energies[-1]) / len(crystal))
    return energies


def rattled(path: Path, n: int) -> list[AtomSet]:
    rng = np.random.default_rng(0)
    small = [crystal for crystal in first(path, 4 * n) if len(crystal) <= MAX_ATOMS][:n]
    return [
        replace(c, positions=c.positions + NOISE_ANGSTROM * rng.normal(size=c.positions.shape)) for c in small
    ]


def first(path: Path, n: int) -> list[AtomSet]:
    stream = read_source(Source.from_word(str(path)), DataConfig(spacegroups="stated"))
    return list(islice((item for item in stream if isinstance(item, AtomSet)), n))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


if __name__ == "__main__":
    main()
