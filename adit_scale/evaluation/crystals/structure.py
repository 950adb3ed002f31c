"""Structural validity of a crystal by CDVAE's rule (Xie et al. 2022).

The cell's volume is at least 0.1 Å³ and no two atoms are nearer than 0.5 Å. Images of one atom count as
well, which CDVAE leaves out: a cell with an edge below 0.5 Å is not valid here. CDVAE also drops crystals
whose CrystalNN fingerprint cannot be made; that is a check of its own here (``environments.py``).
"""

from __future__ import annotations

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.crystals.composition import elements_fault
from adit_scale.evaluation.decode import NON_FINITE_CELL, NON_FINITE_COORDINATES, Invalid

MIN_DISTANCE_ANGSTROM = 0.5
MIN_VOLUME_ANGSTROM3 = 0.1
SMALL_VOLUME = f"volume under {MIN_VOLUME_ANGSTROM3} Å³"
MAX_EDGE_ANGSTROM = 1e9
LARGE_CELL = f"cell edge over {MAX_EDGE_ANGSTROM:g} Å"  # fractional coordinates are rounding there
MAX_ELONGATION = 20.0  # longest edge of the reduced cell over the edge of a cube of its volume
MAX_VOLUME_PER_ATOM_ANGSTROM3 = 1e4
ELONGATED = "cell too elongated for symmetry and matching"
EMPTY = "cell too empty for symmetry and matching"
OVERLAP = f"atoms closer than {MIN_DISTANCE_ANGSTROM} Å"
STRUCTURAL_PROTOCOL = (
    f"CDVAE: volume of at least {MIN_VOLUME_ANGSTROM3} Å³, no two atoms, images included, nearer than "
    f"{MIN_DISTANCE_ANGSTROM} Å"
)

_MAX_REDUCTION_STEPS = 200
_FLAT = 1e-12  # volume over the product of the edges, below which the volume is rounding
_VECTORS_AT_ONCE = 1_000_000


def structural_fault(crystal: AtomSet | Invalid) -> str | None:
    """Why the sample is no structure, or None where it is valid."""
    if isinstance(crystal, Invalid):
        return crystal.reason
    fault = elements_fault(crystal.numbers)
    if fault is not None:
        return fault
    if not np.isfinite(crystal.cell).all():
        return NON_FINITE_CELL
    if not np.isfinite(crystal.positions).all():
        return NON_FINITE_COORDINATES
    if np.abs(crystal.cell).max() > MAX_EDGE_ANGSTROM:
        return LARGE_CELL
    volume = abs(np.linalg.det(crystal.cell))
    # In a flat cell of long edges the determinant is rounding.
    if volume < max(MIN_VOLUME_ANGSTROM3, _FLAT * float(np.linalg.norm(crystal.cell, axis=1).prod())):
        return SMALL_VOLUME
    if has_overlap(crystal.positions, crystal.cell, MIN_DISTANCE_ANGSTROM):
        return OVERLAP
    return None


def shape_fault(crystal: AtomSet) -> str | None:
    """Why symmetry and matching are not asked of a structurally valid crystal, or None.

    Their algorithms need time and memory that grow with the elongation of the cell and with empty space. In
    MP20 and MPTS-52 the longest edge of a reduced cell is at most 6.3 edges of a cube of the same volume, and
    an atom has at most 604 Å³.
    """
    volume = abs(np.linalg.det(crystal.cell))
    if volume > MAX_VOLUME_PER_ATOM_ANGSTROM3 * len(crystal):
        return EMPTY
    longest = np.linalg.norm(minkowski_reduced(crystal.cell), axis=1).max()
    return ELONGATED if longest > MAX_ELONGATION * np.cbrt(volume) else None


def has_overlap(positions: np.ndarray, cell: np.ndarray, cutoff: float) -> bool:
    """Whether two atoms, periodic images included, are nearer than ``cutoff``. All in angstrom; the cell
    ``(3, 3)`` must have a volume."""
    if np.linalg.norm(cell, axis=1).min() < cutoff:
        return True
    spacings = _plane_spacings(cell)
    if spacings.min() < 2 * cutoff:
        cell = minkowski_reduced(cell)
        if np.linalg.norm(cell, axis=1).min() < cutoff:
            return True
        spacings = _plane_spacings(cell)
    first, second = np.triu_indices(len(positions), 1)
    fractional = positions @ np.linalg.inv(cell)
    difference = fractional[first] - fractional[second]
    difference -= np.round(difference)
    # A vector nearer than the cutoff has |difference + image| · spacing < cutoff along each axis, and
    # |difference| ≤ 1/2: so most cells need no image beyond the nearest.
    reach = np.floor(cutoff / spacings + 0.5).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    own_images = images[images.any(axis=1)] @ cell
    if len(own_images) and np.linalg.norm(own_images, axis=1).min() < cutoff:
        return True
    at_once = max(1, _VECTORS_AT_ONCE // len(images))
    return any(
        (((difference[i : i + at_once, None] + images) @ cell) ** 2).sum(axis=-1).min() < cutoff**2
        for i in range(0, len(difference), at_once)
    )


def _plane_spacings(cell: np.ndarray) -> np.ndarray:
    """Distance between neighbouring lattice planes along each axis, ``(3,)`` angstrom."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def minkowski_reduced(cell: np.ndarray) -> np.ndarray:
    """Another cell of the same lattice with the shortest possible vectors, shortest first.

    The greedy algorithm of Nguyen and Stehlé (2009): the longest vector loses its closest lattice vector
    of the two others, until it can lose no more. Each step shortens; the bound on steps is there for
    rounding only.
    """
    near = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    cell = cell.copy()
    for _ in range(_MAX_REDUCTION_STEPS):
        cell = cell[np.argsort(np.linalg.norm(cell, axis=1), kind="stable")]
        turns = np.round(cell[1] @ cell[0] / (cell[0] @ cell[0]))
        if turns:
            cell[1] -= turns * cell[0]
            continue
        weights = np.linalg.lstsq(cell[:2].T, cell[2], rcond=None)[0]
        candidates = cell[2] - (np.round(weights) + near) @ cell[:2]
        shortest = candidates[np.linalg.norm(candidates, axis=1).argmin()]
        if np.linalg.norm(shortest) >= np.linalg.norm(cell[2]) * (1 - 1e-9):
            break
        cell[2] = shortest
    return cell
