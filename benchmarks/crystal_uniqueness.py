"""Which of 1,000 crystals are the first of their group: all pairs by StructureMatcher against ours.

The set is hard: crystals of few compositions, each with many polymorphs of MP20, their copies (rotated, in
other cells, doubled) and copies with noise from 0.02 to 0.4 angstrom, about the edge of matching. Crystals
of another composition are there too, as in samples.

Baselines, in the same run: ``fit`` of every pair, as it stands (it rejects other compositions early), and
``group_structures``, which reduces each crystal once, buckets by formula and compares with one crystal of a
group only, so that its groups hang on the order.

python benchmarks/crystal_uniqueness.py --data FOLDER [--n 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
from crystal_sets import FILES, by_composition, disguised, numbered, read_crystals, shaken
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher
from record import record, row, write

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.crystals.components import Components, Matcher
from adit_scale.evaluation.crystals.grouping import group_crystals
from adit_scale.evaluation.crystals.matching import TOLERANCES
from adit_scale.evaluation.crystals.reduction import ReducedCell, reduce_crystal
from adit_scale.evaluation.decode import to_pymatgen

NOISE_ANGSTROM = (0.0, 0.02, 0.1, 0.2, 0.4)


def hard_set(real: list[AtomSet], n: int, seed: int) -> list[AtomSet]:
    """Three quarters from the compositions with most polymorphs, with copies; the rest as they come."""
    rng = np.random.default_rng(seed)
    polymorphs = [c for bucket in by_composition(real)[: max(4, n // 40)] for c in bucket]
    crystals = [polymorphs[i] for i in rng.permutation(len(polymorphs))[: n // 4]]
    while len(crystals) < 3 * n // 4:
        copied = disguised(polymorphs[rng.integers(len(polymorphs))], rng)
        crystals.append(shaken(copied, float(rng.choice(NOISE_ANGSTROM)), rng))
    crystals += [real[i] for i in rng.choice(len(real), n - len(crystals), replace=False)]
    return numbered([crystals[i] for i in rng.permutation(n)])


def ours(crystals: list[AtomSet]) -> tuple[list[int], Matcher]:
    """In this process: without the other ones' help and without their start."""
    matcher, components = Matcher(TOLERANCES["default"], 60.0, 0), Components(len(crystals))
    cells = {
        i: c for i, atom_set in enumerate(crystals) if isinstance(c := reduce_crystal(atom_set), ReducedCell)
    }
    assert len(cells) == len(crystals)
    group_crystals(cells, components, matcher)
    return components.roots(), matcher


def all_pairs(structures: list[Structure]) -> list[int]:
    matcher, components = StructureMatcher(), Components(len(structures))
    for i, j in itertools.combinations(range(len(structures)), 2):
        if matcher.fit(structures[i], structures[j]):
            components.join(i, j)
    return components.roots()


def first_of_groups(structures: list[Structure]) -> set[int]:
    place = {id(structure): i for i, structure in enumerate(structures)}
    return {min(place[id(s)] for s in group) for group in StructureMatcher().group_structures(structures)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(FILES[:2])}")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="crystal_uniqueness", help="of the result file")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    crystals = hard_set(read_crystals(args.data, FILES[:2]), args.n, args.seed)
    structures = [to_pymatgen(crystal) for crystal in crystals]

    def timed(function, *arguments):
        begin = time.process_time()
        return function(*arguments), time.process_time() - begin

    (roots, matcher), ours_s = timed(ours, crystals)
    grouped, grouped_s = timed(first_of_groups, structures)
    expected, pairs_s = timed(all_pairs, structures)
    n = len(crystals)
    unique = [root == i for i, root in enumerate(roots)]
    same = sum(u == (root == i) for i, (u, root) in enumerate(zip(unique, expected, strict=True)))
    same_grouped = sum(u == (i in grouped) for i, u in enumerate(unique))
    pairs = sum(len(b) * (len(b) - 1) // 2 for b in by_composition(crystals))
    facts = {
        "crystals": n,
        "unique": sum(unique),
        "pairs_of_one_composition": pairs,
        "pairs_compared": matcher.n_compared,
        "equal_groups": sum(a == b for a, b in zip(roots, expected, strict=True)),
    }
    what = f"unique crystals among {n:,}, one core, reduction included"
    rows = [
        row(what, n / ours_s, "every pair by StructureMatcher.fit", n / pairs_s, "crystals/s", **facts),
        row(what, n / ours_s, "StructureMatcher.group_structures", n / grouped_s, "crystals/s"),
        row("verdicts that agree", same / n, "every pair by StructureMatcher.fit", 1.0, ""),
        row("verdicts that agree", same_grouped / n, "StructureMatcher.group_structures", 1.0, ""),
    ]
    write(args.name, record("crystal_uniqueness", ["numpy", "scipy", "pymatgen"], rows))


if __name__ == "__main__":
    main()
