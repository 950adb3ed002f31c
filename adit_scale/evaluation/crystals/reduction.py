"""The primitive Niggli cell of a crystal, as arrays: what structures are matched by.

The reduction is the one StructureMatcher makes of both structures in every comparison; here it is made once
a crystal. Matching scales volumes, so that every cell is kept at 1 Å³ an atom.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.crystals.structure import minkowski_reduced, shape_fault
from adit_scale.evaluation.decode import to_pymatgen

_NEIGHBOURS = 8
_MAX_PROFILE_VECTORS = 3_000_000


@dataclass(frozen=True)
class ReducedCell:
    """numbers: ``(n,)`` int64, in pymatgen's order of sites. fractional: ``(n, 3)``. cell: ``(3, 3)``, scaled
    to 1 Å³ an atom. minima: ``(3,)`` successive minima of its lattice. profile: ``(8·k,)`` for k elements, by
    atomic number, the mean distances to the nearest, second, …, eighth neighbour: alike in like crystals.
    """

    numbers: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray
    minima: np.ndarray
    profile: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


def reduce_crystal(crystal: AtomSet) -> ReducedCell | str:
    """The reduced cell of a structurally valid crystal, or why it has none. May not end for odd cells."""
    fault = shape_fault(crystal)
    if fault is not None:
        return fault
    structure = to_pymatgen(crystal)
    # A reduction that fails: compared as it stands.
    with contextlib.suppress(ValueError, ArithmeticError, LookupError, RuntimeError):
        structure = structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
    numbers = np.array(structure.atomic_numbers, dtype=np.int64)
    cell = np.array(structure.lattice.matrix, dtype=np.float64)
    cell *= (len(numbers) / abs(np.linalg.det(cell))) ** (1 / 3)
    shortest = minkowski_reduced(cell)
    minima = np.linalg.norm(shortest, axis=1)
    fractional = np.array(structure.frac_coords, dtype=np.float64)
    return ReducedCell(numbers, fractional, cell, minima, _profile(numbers, fractional @ cell, shortest))


def _profile(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Mean distances, by element, to each atom's nearest neighbours, among images one cell away at most."""
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    fractional = positions @ np.linalg.inv(cell)
    at_once = max(1, _MAX_PROFILE_VECTORS // (len(images) * len(numbers)))
    nearest = np.concatenate(
        [
            _nearest(fractional[i : i + at_once], fractional, cell, images)
            for i in range(0, len(numbers), at_once)
        ]
    )
    return np.concatenate([nearest[numbers == z].mean(axis=0) for z in np.unique(numbers)])


def _nearest(some: np.ndarray, every: np.ndarray, cell: np.ndarray, images: np.ndarray) -> np.ndarray:
    """``(len(some), 8)`` distances to neighbours, the atom itself left out; the last one is repeated where
    there are fewer."""
    difference = some[:, None] - every[None]
    difference -= np.round(difference)
    distances = np.linalg.norm((difference @ cell)[:, :, None] + images, axis=-1).reshape(len(some), -1)
    k = min(_NEIGHBOURS, distances.shape[1] - 1)
    nearest = np.sort(np.partition(distances, k, axis=1)[:, : k + 1], axis=1)[:, 1:]
    return np.pad(nearest, ((0, 0), (0, _NEIGHBOURS - k)), mode="edge")
