"""Verdicts on 10,000 crystals: structure, two lists of oxidation states, symmetry, unique, and novel against
27,000 training crystals.

Samples are made from real crystals: as they are, with noise, with other species, in disguise, and broken ones
(two atoms at one place). References are every crystal of the files, and then crystals with noise up to their
number: the training set is as large as MP20's. Its index is made once a data set and kept on disk; the time
it takes is a row of its own.

Baseline, in the same run: pymatgen's and SMACT's plain route one by one in one process on a part of the
samples: distances, ``smact_validity``, SpacegroupAnalyzer at two tolerances, ``StructureMatcher.fit`` with
every reference and every earlier sample of the same reduced formula.

python benchmarks/scoring_crystals.py --data FOLDER [--n 10000] [--known 27000] [--baseline 100]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from crystal_sets import FILES, disguised, numbered, other_species, read_crystals, shaken
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from record import record, row, write
from smact.screening import smact_validity

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals import ReferenceIndex, judge_crystals, reference_index
from adit_scale.evaluation.decode import to_pymatgen


def make_samples(real: list[AtomSet], n: int, seed: int) -> list[AtomSet]:
    """A tenth each: real, disguised, broken; a fifth: noise of 0.1 and of 0.3 Å; the rest other species."""
    rng = np.random.default_rng(seed)
    elements = np.unique(np.concatenate([crystal.numbers for crystal in real]))
    samples = []
    for i in range(n):
        crystal, kind = real[rng.integers(len(real))], i % 10
        if kind == 1:
            crystal = disguised(crystal, rng)
        elif kind == 2 and len(crystal) > 1:
            crystal.positions[1] = crystal.positions[0]
        elif kind in (3, 4, 5, 6):
            crystal = shaken(crystal, 0.1 if kind < 5 else 0.3, rng)
        elif kind in (7, 8, 9):
            crystal = shaken(other_species(crystal, elements, rng), 0.1, rng)
        samples.append(crystal)
    return numbered(samples)


def make_references(real: list[AtomSet], n: int, seed: int) -> list[AtomSet]:
    rng = np.random.default_rng(seed + 1)
    more = [shaken(real[i], 0.1, rng) for i in rng.integers(len(real), size=max(0, n - len(real)))]
    return [*real, *more][:n]


def plain_route(samples: list[AtomSet], references: list[AtomSet]) -> None:
    """Every question asked of each sample in turn, by the packages' own functions."""
    known: dict[str, list[AtomSet]] = defaultdict(list)
    earlier: dict[str, list[Structure]] = defaultdict(list)
    for crystal in references:
        known[_formula(crystal)].append(crystal)
    matcher = StructureMatcher()
    for crystal in samples:
        structure = to_pymatgen(crystal)
        distances = structure.distance_matrix + np.diag(np.full(len(structure), 10.0))
        sound = structure.volume >= 0.1 and distances.min() >= 0.5
        for name in ("smact14", "icsd24"):
            smact_validity(structure.composition, oxidation_states_set=name)
        if not sound:
            continue
        for symprec in (0.1, 0.01):
            SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number()
        formula = structure.composition.reduced_formula
        any(matcher.fit(structure, to_pymatgen(other)) for other in known[formula])
        any(matcher.fit(structure, other) for other in earlier[formula])
        earlier[formula].append(structure)


def _formula(crystal: AtomSet) -> str:
    return Structure(np.eye(3), crystal.numbers.tolist(), np.zeros((len(crystal), 3))).reduced_formula


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(FILES)}")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--known", type=int, default=27_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--baseline", type=int, default=100, help="samples the plain route is put to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="scoring_crystals", help="of the result file")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    references = make_references(read_crystals(args.data), args.known, args.seed)
    samples = make_samples(read_crystals(args.data), args.n, args.seed)
    config = EvaluationConfig(processes=args.processes)

    begin = time.perf_counter()
    index = reference_index(references, args.processes)
    index_s = time.perf_counter() - begin
    begin = time.perf_counter()
    verdicts = judge_crystals(samples, config, index)
    judge_s = time.perf_counter() - begin
    lazy_s = _timed(samples, config, references)
    chosen = samples[:: max(1, args.n // args.baseline)][: args.baseline]
    begin = time.perf_counter()
    plain_route(chosen, references)
    plain_rate = len(chosen) / (time.perf_counter() - begin)

    counts = {name: int(check.passed.sum()) for name, check in verdicts.checks.items()}
    facts = {"processes": args.processes, "references": len(references), "passed": counts}
    baseline = f"pymatgen and SMACT one by one, {len(chosen)} of the samples"
    what = f"verdicts on {args.n:,} crystals"
    rows = [
        row(f"{what}, index at hand", args.n / judge_s, baseline, plain_rate, "crystals/s",
            seconds=judge_s, **facts),
        row(f"{what}, references reduced where their composition occurs", args.n / lazy_s, baseline,
            plain_rate, "crystals/s", seconds=lazy_s),
        row(f"{what} and the whole index of {len(references):,}", args.n / (judge_s + index_s), baseline,
            plain_rate, "crystals/s", seconds=judge_s + index_s, index_seconds=index_s),
    ]  # fmt: skip
    write(args.name, record("scoring_crystals", ["numpy", "pymatgen", "smact", "spglib"], rows))


def _timed(samples: list[AtomSet], config: EvaluationConfig, known: list[AtomSet] | ReferenceIndex) -> float:
    begin = time.perf_counter()
    judge_crystals(samples, config, known)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
