"""Scoring molecules: EDM's table, RDKit's bonds and PoseBusters without energies, in two processes.

    python benchmarks/scoring_molecules.py [--molecules 10000] [--processes 2] [--samples PATH]

The molecules are those of ``../shared/data`` (QM9's sample and QM7) over and over, each with its own noise of
0.01 Å a coordinate, so that no two are alike; or those of a file or folder that ``adit evaluate`` reads. The
whole is timed by the clock, starting processes included; the stages and the baseline, PoseBusters' own
``bust`` on one molecule at a time, by the processor of this process. Prints JSON and writes it to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, record, row, write

from adit_scale.atoms import MOLECULE, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.molecules import judge_molecules
from adit_scale.evaluation.molecules.determine_bonds import determine_bonds, restored
from adit_scale.evaluation.molecules.edm import judge_edm
from adit_scale.evaluation.molecules.poses import bust
from adit_scale.evaluation.reading import read_structures

DATA = Path(__file__).resolve().parents[2] / "shared/data"
NOISE_ANGSTROM = 0.01
PROTOCOLS = ["edm", "rdkit", "posebusters"]


def molecules(n: int) -> list[AtomSet]:
    """Real molecules, QM9 and QM7 in turn, each with noise of its own."""
    real = [
        [s for s in read_source(DATA / f"{name}.extxyz.gz") if isinstance(s, AtomSet)]
        for name in ("qm9_sample", "qm7")
    ]
    rng = np.random.default_rng(0)
    chosen = [real[i % 2][(i // 2) % len(real[i % 2])] for i in range(n)]
    return [
        replace(s, positions=s.positions + rng.normal(0, NOISE_ANGSTROM, s.positions.shape)) for s in chosen
    ]


def milliseconds(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Of the processor, an item; the first item is not counted, since it loads what the others use."""
    function(items[0])
    began = time.process_time()
    for item in items:
        function(item)
    return 1e3 * (time.process_time() - began) / len(items)


def stage_milliseconds(samples: Sequence[AtomSet]) -> dict[str, float]:
    """Processor time a molecule of each stage, and of PoseBusters' own function on the same molecules."""
    from posebusters import PoseBusters  # after the timed run: it redirects RDKit's log

    found = [determine_bonds(sample).mol for sample in samples]
    bonded = [mol for mol in found if mol is not None]
    own = PoseBusters(config="mol_fast")
    stages = {
        "edm": milliseconds(judge_edm, samples),
        "rdkit": milliseconds(determine_bonds, samples),
        "posebusters": milliseconds(lambda mol: bust(mol, energy=False), bonded),
    }
    for name in ("rdkit", "posebusters"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return stages | {"posebusters_own": milliseconds(lambda mol: own.bust([restored(mol)]), bonded)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--molecules", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--baseline", type=int, default=200, help="molecules given to PoseBusters' own bust")
    parser.add_argument("--samples", help="score these in place of real molecules")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    samples: Sequence[AtomSet | Invalid] = (
        read_structures(options.samples, limit=options.molecules)[MOLECULE]
        if options.samples
        else molecules(options.molecules)
    )
    config = EvaluationConfig(protocols=PROTOCOLS, processes=options.processes)
    began = time.perf_counter()
    verdicts = judge_molecules(samples, config)
    seconds = time.perf_counter() - began

    some = [sample for sample in samples if isinstance(sample, AtomSet)]
    stages = stage_milliseconds(some[:: max(1, len(some) // options.baseline)][: options.baseline])
    baseline_ms = stages["edm"] + stages["rdkit"] + stages["posebusters_own"]
    shares = {name: verdicts.rate(name).value for name in ("edm_valid", "rdkit_valid", "posebusters")}
    n = len(samples)
    whole = row(
        f"molecules scored a second, {n:,} (edm, rdkit, PoseBusters without energies), "
        f"{options.processes} processes",
        n / seconds,
        "one process, PoseBusters' own bust a molecule at a time",
        1e3 / baseline_ms,
        "molecules/s",
        seconds=seconds,
        stage_ms=stages,
        shares=shares,
    )
    poses = row(
        "PoseBusters' checks without energies, one process",
        1e3 / stages["posebusters"],
        "PoseBusters' own bust a molecule at a time",
        1e3 / stages["posebusters_own"],
        "molecules/s",
        molecules=options.baseline,
    )
    result = record("scoring_molecules", ["rdkit", "posebusters", "numpy"], [whole, poses])
    write("scoring_molecules", result, options.results)


if __name__ == "__main__":
    main()
