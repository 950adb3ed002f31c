"""Crystal scores: structural and compositional validity by CDVAE's protocol (Xie et al. 2022).

Structural: the cell's volume is at least 0.1 Å³ and no two atoms are nearer than 0.5 Å. Images of one atom
count as well, which CDVAE leaves out: a cell with an edge below 0.5 Å is not valid here. CDVAE also drops
crystals whose fingerprint cannot be computed; that test is not made. Compositional: ``smact_rules``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.decode import NON_FINITE_CELL, NON_FINITE_COORDINATES, NON_FINITE_TYPES, Invalid
from adit_scale.evaluation.molecules import DomainScores
from adit_scale.evaluation.smact_rules import composition_fault, reduced_composition
from adit_scale.evaluation.statistics import Rate

MIN_DISTANCE_ANGSTROM = 0.5
MIN_VOLUME_ANGSTROM3 = 0.1
SMALL_VOLUME = f"volume under {MIN_VOLUME_ANGSTROM3} Å³"
OVERLAP = f"atoms closer than {MIN_DISTANCE_ANGSTROM} Å"

_MAX_REDUCTION_STEPS = 200


def structural_fault(crystal: AtomSet | Invalid) -> str | None:
    """Why the sample is no structure, or None where it is valid."""
    if isinstance(crystal, Invalid):
        return crystal.reason
    if not np.isfinite(crystal.cell).all():
        return NON_FINITE_CELL
    if not np.isfinite(crystal.positions).all():
        return NON_FINITE_COORDINATES
    if abs(np.linalg.det(crystal.cell)) < MIN_VOLUME_ANGSTROM3:
        return SMALL_VOLUME
    if has_overlap(crystal.positions, crystal.cell, MIN_DISTANCE_ANGSTROM):
        return OVERLAP
    return None


def compositional_fault(crystal: AtomSet | Invalid, oxidation_states: str = "smact14") -> str | None:
    """Why SMACT's rules refuse the composition, or None. A sample without a cell still has one."""
    if not crystal.numbers.all():
        return NON_FINITE_TYPES
    return composition_fault(reduced_composition(crystal.numbers), oxidation_states)


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
    vectors = (difference[:, None] + images) @ cell
    return bool(((vectors**2).sum(axis=-1) < cutoff**2).any())


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


def score_crystals(
    crystals: Sequence[AtomSet | Invalid], oxidation_states: str = "smact14", confidence: float = 0.95
) -> DomainScores:
    """structural_validity, compositional_validity and validity (both), each over all samples given."""
    structural = [structural_fault(crystal) for crystal in crystals]
    compositional = [compositional_fault(crystal, oxidation_states) for crystal in crystals]
    both = [s or c for s, c in zip(structural, compositional, strict=True)]
    faults = {"structural_validity": structural, "compositional_validity": compositional, "validity": both}
    return DomainScores(
        rates={name: Rate(of.count(None), len(of), confidence) for name, of in faults.items()},
        reasons={
            name: dict(Counter(fault for fault in of if fault is not None).most_common())
            for name, of in faults.items()
        },
        valid=tuple(i for i, fault in enumerate(both) if fault is None),
    )
