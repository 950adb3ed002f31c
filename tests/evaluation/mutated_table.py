"""The scores of real structures beside those of the same structures spoiled: does the code tell them apart?

    python -m tests.evaluation.mutated_table --data FOLDER [--molecules N] [--crystals N] [--hull FILE.json]

FOLDER holds qm9_sample.extxyz.gz and mp20_biternary_test.csv.gz. Prints two Markdown tables; with a hull of
`adit evaluate hull-entries relax=chgnet`, a third of CHGNet's energies above it, as the crystals stand.
Spoiled are copies: every coordinate moved by N(0, 0.3 Å); species shuffled within each structure; species
exchanged between structures (every atom gets the element of some atom of the set, all counts kept).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.evaluation.config import EnergyConfig, EvaluationConfig
from adit_scale.evaluation.energies.hull import Hull
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.single_points import single_points
from adit_scale.evaluation.judging import judge
from adit_scale.evaluation.reading import read_structures
from adit_scale.evaluation.score import Scores
from adit_scale.evaluation.statistics import Rate
from adit_scale.evaluation.tables import Table, percent

FILES = {MOLECULE: "qm9_sample.extxyz.gz", CRYSTAL: "mp20_biternary_test.csv.gz"}
NOISE_ANGSTROM = 0.3
SHOWN = {
    MOLECULE: (
        "edm_atom_stability",
        "edm_molecule_stability",
        "edm_validity",
        "edm_valid_and_connected",
        "edm_uniqueness",
        "rdkit_validity",
        "posebusters_validity",
    ),
    CRYSTAL: (
        "structural_validity",
        "compositional_validity",
        "compositional_validity_icsd24",
        "validity",
        "uniqueness",
        "p1_share_0.1",
        "p1_share_0.01",
    ),
}

Sets = Sequence[AtomSet]


def noised(sets: Sets) -> list[AtomSet]:
    rng = np.random.default_rng(0)
    return [
        replace(s, positions=s.positions + rng.normal(0, NOISE_ANGSTROM, s.positions.shape)) for s in sets
    ]


def shuffled(sets: Sets) -> list[AtomSet]:
    rng = np.random.default_rng(1)
    return [replace(s, numbers=rng.permutation(s.numbers)) for s in sets]


def exchanged(sets: Sets) -> list[AtomSet]:
    everything = np.random.default_rng(2).permutation(np.concatenate([s.numbers for s in sets]))
    ends = np.cumsum([len(s) for s in sets])
    parts = np.split(everything, ends[:-1])
    return [replace(s, numbers=numbers) for s, numbers in zip(sets, parts, strict=True)]


MUTATIONS: dict[str, Callable[[Sets], list[AtomSet]]] = {
    "real": list,
    f"positions + {NOISE_ANGSTROM:g} Å": noised,
    "species shuffled within": shuffled,
    "species exchanged between": exchanged,
}


def real_sets(folder: Path, domain: int, n: int) -> list[AtomSet]:
    """The first ``n`` structures of the domain's file."""
    found = read_structures(str(folder / FILES[domain]), n, domains=(domain,))[domain]
    real = [one for one in found if isinstance(one, AtomSet)]
    assert len(real) == len(found), "a structure of the sample cannot be read"
    return real


def score_mutations(folder: Path, domain: int, n: int, config: EvaluationConfig) -> dict[str, Scores]:
    """Scores of these structures, as they are and spoiled."""
    real = real_sets(folder, domain, n)
    return {name: judge({domain: mutate(real)}, config).scores for name, mutate in MUTATIONS.items()}


def table(scores: dict[str, Scores], domain: int, title: str) -> Table:
    prefix = "molecule" if domain == MOLECULE else "crystal"
    rows = []
    for name in SHOWN[domain]:
        rates = [of.rates.get(f"{prefix}/{name}") for of in scores.values()]
        rows.append((name, *("-" if rate is None else percent(rate) for rate in rates)))
    return Table(title, ("rate", *scores), rows)


def energies(folder: Path, n: int, hull: Hull) -> Table:
    """Of the first ``n`` crystals, not relaxed: energy above hull in eV/atom; no energy fails the share."""
    real = real_sets(folder, CRYSTAL, n)
    limit = EnergyConfig().metastable_ev
    columns = []
    for mutate in MUTATIONS.values():
        sets = mutate(real)
        found = single_points(sets, Potential("chgnet"), EnergyConfig(), processes=1)
        above = np.array(
            [hull.place(s.numbers, e.energy).above_hull for s, e in zip(sets, found, strict=True)]
        )
        share = percent(Rate(int((above <= limit).sum()), n))
        columns.append((share, f"{np.nanmedian(above):.3f}", f"{np.nanquantile(above, 0.05):.3f}"))
    names = (f"at most {limit:g} above hull", "median above hull", "5% quantile")
    rows = [(name, *cells) for name, cells in zip(names, zip(*columns, strict=True), strict=True)]
    return Table(f"Energies of {n:,} crystals, CHGNet", ("eV/atom", *MUTATIONS), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("ADIT_SHARED", "../shared")) / "data"
    )
    parser.add_argument("--molecules", type=int, default=2000)
    parser.add_argument("--crystals", type=int, default=7118)
    parser.add_argument("--hull", type=Path)
    options = parser.parse_args()
    for domain, n in ((MOLECULE, options.molecules), (CRYSTAL, options.crystals)):
        title = f"{FILES[domain].partition('.')[0]}, {n:,} structures"
        scores = score_mutations(options.data, domain, n, EvaluationConfig())
        print(table(scores, domain, title).markdown(), flush=True)
    if options.hull:
        print(energies(options.data, options.crystals, Hull.read(options.hull)).markdown())


if __name__ == "__main__":
    main()
