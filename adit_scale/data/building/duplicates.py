"""Structures that repeat an earlier one of their data set.

Only structures of one composition are compared, and of those only neighbours: each has numbers that two
equal structures must share up to a tolerance, and is held against the earlier ones within it. So the work
grows with the number of near-alike structures, not with the square of the data set. The structures of one
composition lie in memory together, no others.

Molecules are the same when their sorted interatomic distances, by pair of elements, agree to 0.02 angstrom;
mirror images count as the same then. Crystals are the same when their volumes an atom agree to 2 %, their
primitive cells hold as many atoms, and pymatgen's StructureMatcher at its defaults says so.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.building.conversion import Progress
from adit_scale.data.building.ledger import DUPLICATE, STORED, Ledger
from adit_scale.data.building.processes import run_all
from adit_scale.data.building.shuffling import bucket_bounds, distribute, load_bucket
from adit_scale.data.building.staging import Lot, bytes_of_sets
from adit_scale.data.config import DataConfig

DISTANCE_TOLERANCE_ANGSTROM = 0.02
VOLUME_TOLERANCE = 0.02
_N_MEANS = 8


@dataclass(frozen=True)
class _Task:
    """A bucket. starts: places in it at which groups of one data set and composition begin, then its end."""

    path: Path
    first: int
    starts: np.ndarray


def find_duplicates(ledger: Ledger, folder: Path, config: DataConfig, progress: Progress | None) -> None:
    """Mark in the ledger every structure that repeats an earlier one (of the sources' order) that stays."""
    order, starts = _groups(ledger)
    ledger.original_s = np.full(len(ledger.facts), -1, np.int64)
    if not len(order):
        return
    n_bytes = bytes_of_sets(ledger.facts["n_atoms"][order])
    may_cut_s = np.zeros(len(order), bool)
    may_cut_s[starts] = True
    bounds = bucket_bounds(n_bytes, may_cut_s)
    place_s = np.full(len(ledger.facts), -1, np.int64)
    place_s[order] = np.arange(len(order))
    paths = distribute(ledger.pieces, place_s, ledger.dataset_maps, bounds, folder)
    edges = np.append(starts, len(order))
    tasks = [
        _Task(path, int(first), edges[(edges >= first) & (edges <= stop)] - first)
        for path, first, stop in zip(paths, bounds[:-1], bounds[1:], strict=True)
    ]
    n_done = 0

    def done(found: tuple[int, int, np.ndarray]) -> None:
        nonlocal n_done
        first, n_sets, pairs = found
        duplicate, original = order[first + pairs[:, 0]], order[first + pairs[:, 1]]
        ledger.status_s[duplicate] = DUPLICATE
        assert ledger.original_s is not None
        ledger.original_s[duplicate] = original
        n_done += n_sets
        if progress is not None:
            progress("comparing", n_done, len(order))

    run_all(_compare_bucket, tasks, config.build_workers, done)
    for path in paths:
        path.unlink()


def _groups(ledger: Ledger) -> tuple[np.ndarray, np.ndarray]:
    """Places of the structures that have company of their data set and composition, group after group, each
    in the order of the sources; and where in this the groups begin."""
    stored = np.flatnonzero(ledger.status_s == STORED)
    facts = ledger.facts[stored]
    order = np.lexsort((facts["composition"], facts["domain"], facts["dataset"]))  # stable
    keys = facts[["composition", "domain", "dataset"]][order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(order)))
    company = sizes > 1
    kept = stored[order[np.repeat(company, sizes)]]
    return kept, np.cumsum(np.append(0, sizes[company]))[:-1]


def _compare_bucket(task: _Task) -> tuple[int, int, np.ndarray]:
    """First place of the bucket, its structures, and ``(n, 2)`` places in it of duplicates and originals."""
    lot, _ = load_bucket(task.path)
    pairs: list[tuple[int, int]] = []
    for start, stop in zip(task.starts[:-1].tolist(), task.starts[1:].tolist(), strict=True):
        group = _sets(lot, np.arange(start, stop))
        find = repeats_of_crystals if group[0].periodic else repeats_of_molecules
        pairs += [(start + i, start + j) for i, j in find(group)]
    return task.first, len(lot), np.array(pairs, np.int64).reshape(-1, 2)


def _sets(lot: Lot, index: np.ndarray) -> list[AtomSet]:
    return lot.take(index).to_sets([""] * (int(lot.dataset_s.max()) + 1))


def repeats_of_molecules(sets: Sequence[AtomSet]) -> list[tuple[int, int]]:
    """(later, earlier) places of molecules that are the same; the earlier repeats none itself.

    sets: of one composition.
    """
    kept: _Kept | None = None
    found: list[tuple[int, int]] = []
    for place, atom_set in enumerate(sets):
        distances = sorted_distances(atom_set)
        if kept is None:
            kept = _Kept(len(distances))
        same = kept.first_like(distances)
        if same is None:
            kept.add(place, distances)
        else:
            found.append((place, same))
    return found


def sorted_distances(atom_set: AtomSet) -> np.ndarray:
    """All interatomic distances, float32 angstrom, by pair of elements, then by length."""
    i, j = np.triu_indices(len(atom_set), k=1)
    distances = np.linalg.norm(atom_set.positions[i] - atom_set.positions[j], axis=1)
    low, high = np.sort(atom_set.numbers[np.stack([i, j])], axis=0)
    return distances[np.lexsort((distances, high, low))].astype(np.float32)


class _Kept:
    """Vectors in which the first within the tolerance, in every element, of another is looked up.

    Means over parts of two such vectors agree to the tolerance too: one mean finds neighbours in an ordered
    list, eight more spare most of the full comparisons.
    """

    def __init__(self, width: int) -> None:
        self._parts = (
            np.linspace(0, width, min(_N_MEANS, width) + 1).astype(int) if width else np.zeros(1, int)
        )
        self._by_mean: list[tuple[float, int]] = []
        self._places: list[int] = []
        self._vectors = np.zeros((16, width), np.float32)
        self._means = np.zeros((16, len(self._parts) - 1), np.float32)

    def first_like(self, vector: np.ndarray) -> int | None:
        mean, margin = _mean(vector), DISTANCE_TOLERANCE_ANGSTROM + 1e-5
        start = bisect_left(self._by_mean, (mean - margin, -1))
        stop = bisect_right(self._by_mean, (mean + margin, len(self._places)))
        near = np.sort(np.array([k for _, k in self._by_mean[start:stop]], np.int64))
        near = near[(np.abs(self._means[near] - self._part_means(vector)) <= margin).all(axis=1)]
        near = near[(np.abs(self._vectors[near] - vector) <= DISTANCE_TOLERANCE_ANGSTROM).all(axis=1)]
        return self._places[near[0]] if len(near) else None

    def add(self, place: int, vector: np.ndarray) -> None:
        k = len(self._places)
        if k == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._means = np.concatenate([self._means, np.zeros_like(self._means)])
        self._vectors[k], self._means[k] = vector, self._part_means(vector)
        self._places.append(place)
        insort(self._by_mean, (_mean(vector), k))

    def _part_means(self, vector: np.ndarray) -> np.ndarray:
        if len(self._parts) < 2:
            return np.zeros(0, np.float32)
        return np.add.reduceat(vector, self._parts[:-1]) / np.diff(self._parts)


def _mean(vector: np.ndarray) -> float:
    return float(vector.mean(dtype=np.float64)) if len(vector) else 0.0


def repeats_of_crystals(sets: Sequence[AtomSet]) -> list[tuple[int, int]]:
    """(later, earlier) places of crystals that are the same; the earlier repeats none itself.

    sets: of one composition, up to a factor.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher  # heavy

    matcher = StructureMatcher()
    margin = math.log1p(VOLUME_TOLERANCE)
    by_volume: dict[int, list[tuple[float, int]]] = {}
    reduced: dict[int, Any] = {}
    found: list[tuple[int, int]] = []
    for place, atom_set in enumerate(sets):
        structure = _reduced(atom_set)
        level = math.log(structure.volume / len(structure))
        like = by_volume.setdefault(len(structure), [])
        near = like[bisect_left(like, (level - margin, -1)) : bisect_right(like, (level + margin, len(sets)))]
        same = next(
            (
                other
                for other in sorted(other for _, other in near)
                if matcher.fit(reduced[other], structure, skip_structure_reduction=True)
            ),
            None,
        )
        if same is None:
            insort(like, (level, place))
            reduced[place] = structure
        else:
            found.append((place, same))
    return found


def _reduced(atom_set: AtomSet) -> Any:
    """The primitive Niggli cell, as the matcher would take it for each comparison anew."""
    from pymatgen.core import Structure

    structure = Structure(atom_set.cell, atom_set.numbers.tolist(), atom_set.fractional)
    try:
        return structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
    except (ValueError, ArithmeticError):  # a reduction that does not end: compared as it stands
        return structure
