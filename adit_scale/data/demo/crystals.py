"""Crystals of textbook prototypes, built here: primitive cell, Niggli reduced, of known space group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import reduce
from math import gcd

import numpy as np
import spglib
from pymatgen.core import Lattice, Structure

from adit_scale.atoms import AtomSet
from adit_scale.data.demo.ionic import IONIC_PROTOTYPES
from adit_scale.data.demo.metallic import METALLIC_PROTOTYPES
from adit_scale.data.demo.prototypes import Candidate, Prototype

DATASET = "demo_crystals"
PROTOTYPES = (*IONIC_PROTOTYPES, *METALLIC_PROTOTYPES)
METALLIC_SHARE = 5  # one in so many: alloys of metals alone pass tests of composition unseen
SYMMETRY_TOLERANCE_ANGSTROM = 0.01
MIN_DISTANCE_ANGSTROM = 1.5
DENSITY_RANGE_G_PER_CM3 = (0.9, 23.0)

# Rows are primitive lattice vectors in units of the conventional ones.
PRIMITIVE = {
    "P": np.eye(3),
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}


def generate_crystals(count: int) -> Iterator[AtomSet]:
    """Up to ``count`` crystals, a fifth of them metallic, shared out evenly over the prototypes of a kind.

    Which compositions of a prototype are taken goes by the hash of their id. Atoms are in the order of the
    prototype's roles.
    """
    n_metallic = count // METALLIC_SHARE
    for prototypes, n in ((IONIC_PROTOTYPES, count - n_metallic), (METALLIC_PROTOTYPES, n_metallic)):
        pools = {p.name: sensible_candidates(p) for p in prototypes}
        quotas = share_out(n, {name: len(pool) for name, pool in pools.items()})
        for prototype in prototypes:
            for name, candidate in pools[prototype.name][: quotas[prototype.name]]:
                yield build(prototype, candidate, name)


def sensible_candidates(prototype: Prototype) -> list[tuple[str, Candidate]]:
    """(id, candidate) of the compositions whose atoms touch as they should, by the hash of the id."""
    named = {
        identify(prototype, c): c for c in prototype.candidates() if _contacts_are_sensible(prototype, c)
    }
    return sorted(named.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())


def share_out(count: int, available: dict[str, int]) -> dict[str, int]:
    """Numbers that sum to ``count`` (or to all there is), as even as ``available`` lets them be."""
    shares: dict[str, int] = {}
    left = min(count, sum(available.values()))
    for rank, name in enumerate(sorted(available, key=lambda n: (available[n], n))):
        shares[name] = min(available[name], left // (len(available) - rank))
        left -= shares[name]
    return shares


def identify(prototype: Prototype, candidate: Candidate) -> str:
    """For example ``perovskite/SrTiO3``: the formula in the order of the prototype's roles."""
    counts = [len(sites) for sites in candidate.sites]
    divisor = reduce(gcd, counts)
    amounts = [n // divisor for n in counts]
    formula = "".join(
        atom.symbol + (str(n) if n > 1 else "") for atom, n in zip(candidate.atoms, amounts, strict=True)
    )
    return f"{prototype.name}/{formula}"


def build(prototype: Prototype, candidate: Candidate, name: str) -> AtomSet:
    """The Niggli-reduced primitive cell; its space group, density and contacts are asserted."""
    symbols, cell, positions = _primitive_cell(prototype, candidate)
    structure = Structure(Lattice(cell), symbols, positions, coords_are_cartesian=True)
    reduced = structure.get_reduced_structure("niggli")
    cell = np.round(reduced.lattice.matrix, 6)
    # Sites keep the order of the roles; rounding first lets 1 - 1e-17 become 0 on every processor.
    fractional = np.round(reduced.frac_coords, 8) % 1.0
    numbers = np.array([site.specie.Z for site in reduced])
    spglib_cell = (cell.tolist(), fractional.tolist(), numbers.tolist())
    dataset = spglib.get_symmetry_dataset(spglib_cell, symprec=SYMMETRY_TOLERANCE_ANGSTROM)
    assert dataset is not None, name
    assert dataset.number == prototype.spacegroup, f"{name} has space group {dataset.number}"
    assert DENSITY_RANGE_G_PER_CM3[0] < reduced.density < DENSITY_RANGE_G_PER_CM3[1], (name, reduced.density)
    return AtomSet(
        numbers=numbers,
        positions=fractional @ cell,
        cell=cell,
        periodic=True,
        dataset=DATASET,
        spacegroup=prototype.spacegroup,
        id=name,
    )


def pair_distances(cell: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Shortest periodic distances ``(n, n)`` in angstrom, an atom to its own images on the diagonal.

    Exact for reduced cells and for the primitive cells of this module: images up to two cells away.
    """
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = positions[None, :, None] - positions[:, None, None] + (steps @ cell)
    distances = np.linalg.norm(vectors, axis=-1)
    distances[distances < 1e-6] = np.inf
    return distances.min(axis=-1)


def _primitive_cell(prototype: Prototype, candidate: Candidate) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Element symbols (n,), primitive cell (3, 3) and positions (n, 3) in angstrom."""
    a, c = candidate.a, candidate.c
    second = [-a / 2, a * np.sqrt(3) / 2, 0.0] if prototype.hexagonal else [0.0, a, 0.0]
    conventional = np.array([[a, 0.0, 0.0], second, [0.0, 0.0, c]])
    cell = PRIMITIVE[prototype.centring] @ conventional
    symbols = [
        atom.symbol for atom, sites in zip(candidate.atoms, candidate.sites, strict=True) for _ in sites
    ]
    positions = np.array([site for sites in candidate.sites for site in sites]) @ conventional
    return symbols, cell, positions


def _contacts_are_sensible(prototype: Prototype, candidate: Candidate) -> bool:
    """Whether every atom touches its partners and none is squeezed.

    A distance counts relative to the sum of radii: cation to anion and metal to metal at least 0.85, anion
    to anion 0.8, and every atom has a partner within 1.25. No two atoms are closer than 1.5 angstrom.
    """
    _, cell, positions = _primitive_cell(prototype, candidate)
    atoms = [a for a, sites in zip(candidate.atoms, candidate.sites, strict=True) for _ in sites]
    charge = np.array([a.charge for a in atoms])
    radius = np.array([a.radius for a in atoms])
    distances = pair_distances(cell, positions)
    relative = distances / (radius[:, None] + radius)
    opposite = (charge[:, None] * charge < 0) | ((charge[:, None] == 0) & (charge == 0))
    both_anions = (charge[:, None] < 0) & (charge < 0)
    return bool(
        distances.min() >= MIN_DISTANCE_ANGSTROM
        and relative[opposite].min() >= 0.85
        and relative[both_anions].min(initial=np.inf) >= 0.80
        and np.where(opposite, relative, np.inf).min(axis=1).max() <= 1.25
    )
