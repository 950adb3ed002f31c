"""Uniqueness and novelty of crystals by pymatgen's StructureMatcher (default tolerances: lengths 0.2, sites
0.3 of (V/n)^(1/3), angles 5°; volumes are scaled).

Only crystals of one reduced formula are compared, and each is reduced to its Niggli primitive cell once.
Matching is not transitive, so the answer to "how many are there" must not hang on the order of asking:
here a group is a connected component of the matches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.decode import to_pymatgen
from adit_scale.evaluation.smact_rules import Composition, reduced_composition
from adit_scale.evaluation.statistics import Rate

Bucket = dict[Composition, list[int]]


def structure_groups(crystals: Sequence[AtomSet]) -> list[int]:
    """For each crystal, the index of the first crystal of its group."""
    reduced = _Reduced(crystals)
    parent = list(range(len(crystals)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for members in _by_composition(crystals).values():
        for place, i in enumerate(members):
            for j in members[:place]:
                # Two crystals already in one group need no comparison.
                if root(i) != root(j) and matches(reduced[i], reduced[j]):
                    low, high = sorted((root(i), root(j)))
                    parent[high] = low
    return [root(i) for i in range(len(crystals))]


def novel_crystals(crystals: Sequence[AtomSet], references: Sequence[AtomSet]) -> list[bool]:
    """For each crystal, whether it matches none of the references (the training set)."""
    buckets = _by_composition(references)
    reduced, reduced_references = _Reduced(crystals), _Reduced(references)
    return [
        not any(
            matches(reduced[i], reduced_references[j])
            for j in buckets.get(reduced_composition(crystal.numbers), ())
        )
        for i, crystal in enumerate(crystals)
    ]


def uniqueness(valid: Sequence[AtomSet], confidence: float = 0.95) -> Rate:
    """Groups over valid crystals. It falls with the number of samples: compare at equal numbers."""
    return Rate(len(set(structure_groups(valid))), len(valid), confidence)


def unique_novelty(
    valid: Sequence[AtomSet], references: Sequence[AtomSet], n_samples: int, confidence: float = 0.95
) -> Rate:
    """Groups with no member among the references, over all ``n_samples`` samples, invalid ones included.

    Stability, the S of the usual "S.U.N." rate, needs an energy model and is not judged here.
    """
    groups = structure_groups(valid)
    known = {g for g, is_novel in zip(groups, novel_crystals(valid, references), strict=True) if not is_novel}
    return Rate(len(set(groups) - known), n_samples, confidence)


def matches(first: Structure, second: Structure) -> bool:
    """Whether two crystals, already reduced, are the same structure."""
    if len(first) != len(second):  # primitive cells of one structure have one size
        return False
    return StructureMatcher().fit(first, second, skip_structure_reduction=True)


class _Reduced:
    """Niggli primitive cells, made at first use: most crystals are alone in their composition."""

    def __init__(self, crystals: Sequence[AtomSet]) -> None:
        self._crystals = crystals
        self._cells: dict[int, Structure] = {}

    def __getitem__(self, i: int) -> Structure:
        if i not in self._cells:
            niggli = to_pymatgen(self._crystals[i]).get_reduced_structure(reduction_algo="niggli")
            self._cells[i] = niggli.get_primitive_structure()
        return self._cells[i]


def _by_composition(crystals: Iterable[AtomSet]) -> Bucket:
    buckets: Bucket = defaultdict(list)
    for i, crystal in enumerate(crystals):
        buckets[reduced_composition(crystal.numbers)].append(i)
    return buckets
