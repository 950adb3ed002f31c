"""From the autoencoder's output to atom sets, and from atom sets to RDKit and pymatgen.

A sample that describes no system (a NaN, a cell that cannot close) becomes :class:`Invalid`, with its
reason: it stays in every denominator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from rdkit import Chem
from rdkit.Geometry import Point3D
from torch import Tensor

from adit_scale.atoms import CRYSTAL, MAX_ATOMIC_NUMBER, AtomSet, PackedLayout, wrap
from adit_scale.evaluation.bonds import bond_orders

if TYPE_CHECKING:
    from pymatgen.core import Structure

NON_FINITE_TYPES = "atom types are not finite"
NON_FINITE_COORDINATES = "coordinates are not finite"
NON_FINITE_CELL = "cell is not finite"
NON_POSITIVE_LENGTH = "cell length is not positive"
OPEN_ANGLES = "cell angles close no cell"

_FLAT = 1e-12  # a Gram determinant below it is rounding: three edges in a plane
_BOND_TYPES = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)


@dataclass(frozen=True)
class Invalid:
    """A sample that is no system of atoms.

    domain: CRYSTAL or MOLECULE. numbers: ``(n,)`` its atomic numbers, 0 where unknown.
    """

    domain: int
    reason: str
    numbers: np.ndarray
    id: str = ""

    def __len__(self) -> int:
        return len(self.numbers)


class DecodedBatch(Protocol):
    """What the autoencoder decodes: angstrom, radians; see ``models/autoencoder.py``."""

    @property
    def atom_type_logits_t100(self) -> Tensor: ...
    @property
    def positions_t3(self) -> Tensor: ...
    @property
    def fractional_t3(self) -> Tensor: ...
    @property
    def lengths_s3(self) -> Tensor: ...
    @property
    def angles_s3(self) -> Tensor: ...


def decode_sets(
    decoded: DecodedBatch,
    layout: PackedLayout,
    domain_s: Tensor,
    dataset: str = "sampled",
    ids: Sequence[str] | None = None,
) -> list[AtomSet | Invalid]:
    """One entry a real set of the batch, in order; the padding tail is left out.

    The atom type is the likeliest of elements 1 to 99: class 0 is the mask of training, not an element.
    A molecule takes the decoded positions, centred; a crystal the decoded fractional coordinates, wrapped,
    and the cell of the decoded lengths and angles. ids: one a real set; default is its place in the batch.
    """
    logits, positions, fractional, lengths, angles = (
        tensor.detach().to("cpu").double().numpy()
        for tensor in (
            decoded.atom_type_logits_t100,
            decoded.positions_t3,
            decoded.fractional_t3,
            decoded.lengths_s3,
            decoded.angles_s3,
        )
    )
    offsets, domains = layout.offsets.tolist(), domain_s.tolist()
    n_real = int(layout.real_s.sum())
    ids = [str(s) for s in range(n_real)] if ids is None else ids
    assert len(ids) == n_real, f"{len(ids)} ids for {n_real} sets"
    numbers = atomic_numbers(logits)
    sets: list[AtomSet | Invalid] = []
    for s in range(n_real):
        atoms = slice(offsets[s], offsets[s + 1])
        if domains[s] == CRYSTAL:
            cell = (lengths[s], angles[s])
            sets.append(crystal_from_decoded(numbers[atoms], fractional[atoms], *cell, dataset, ids[s]))
        else:
            sets.append(molecule_from_decoded(numbers[atoms], positions[atoms], domains[s], dataset, ids[s]))
    return sets


def atomic_numbers(logits_t100: np.ndarray) -> np.ndarray:
    """Likeliest element 1 to 99 of each atom; 0 where a logit is NaN or infinite."""
    elements = logits_t100[:, 1 : MAX_ATOMIC_NUMBER + 1]
    return np.where(np.isfinite(elements).all(axis=1), elements.argmax(axis=1) + 1, 0)


def molecule_from_decoded(
    numbers: np.ndarray, positions: np.ndarray, domain: int, dataset: str, id: str
) -> AtomSet | Invalid:
    """A molecule centred on its mean position."""
    if not numbers.all():
        return Invalid(domain, NON_FINITE_TYPES, numbers, id)
    if not np.isfinite(positions).all():
        return Invalid(domain, NON_FINITE_COORDINATES, numbers, id)
    centred = positions - positions.mean(axis=0)
    return AtomSet(numbers, centred, np.zeros((3, 3)), periodic=False, dataset=dataset, id=id)


def crystal_from_decoded(
    numbers: np.ndarray,
    fractional: np.ndarray,
    lengths: np.ndarray,
    angles: np.ndarray,
    dataset: str,
    id: str,
) -> AtomSet | Invalid:
    """A crystal of ``lengths (3,)`` in angstrom and ``angles (3,)`` alpha, beta, gamma in radians."""
    reason = None if numbers.all() else NON_FINITE_TYPES
    reason = reason or cell_fault(lengths, angles)
    if reason is None and not np.isfinite(fractional).all():
        reason = NON_FINITE_COORDINATES
    if reason is not None:
        return Invalid(CRYSTAL, reason, numbers, id)
    cell = cell_matrix(lengths, angles)
    return AtomSet(numbers, wrap(fractional) @ cell, cell, periodic=True, dataset=dataset, id=id)


def cell_fault(lengths: np.ndarray, angles: np.ndarray) -> str | None:
    """Why these parameters describe no cell, or None.

    Three angles close a cell when the Gram determinant of the unit vectors,
    1 − cos²α − cos²β − cos²γ + 2 cosα cosβ cosγ, is positive (its root is the volume of edges of 1).
    """
    if not (np.isfinite(lengths).all() and np.isfinite(angles).all()):
        return NON_FINITE_CELL
    if (lengths <= 0).any():
        return NON_POSITIVE_LENGTH
    if (angles <= 0).any() or (angles >= np.pi).any() or _gram_determinant(angles) <= _FLAT:
        return OPEN_ANGLES
    return None


def _gram_determinant(angles: np.ndarray) -> float:
    cosines = np.cos(angles)
    return float(1 - (cosines**2).sum() + 2 * cosines.prod())


def cell_matrix(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Cell ``(3, 3)`` in angstrom, rows a, b, c: a along x, b in the xy plane (crystallographers' usual)."""
    cos_alpha, cos_beta, cos_gamma = np.cos(angles)
    sin_gamma = np.sin(angles[2])
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = np.sqrt(_gram_determinant(angles)) / sin_gamma
    directions = np.array([[1.0, 0.0, 0.0], [cos_gamma, sin_gamma, 0.0], [cos_beta, c_y, c_z]])
    return lengths[:, None] * directions


def to_rdkit(atom_set: AtomSet) -> Chem.RWMol:
    """Unsanitised molecule with one conformer; bonds by the EDM distance table, all atoms explicit."""
    return rdkit_molecule(
        atom_set.numbers, atom_set.positions, bond_orders(atom_set.numbers, atom_set.positions)
    )


def rdkit_molecule(numbers: np.ndarray, positions: np.ndarray, orders: np.ndarray) -> Chem.RWMol:
    """Unsanitised molecule of the given bond orders ``(n, n)``, with positions in angstrom as conformer."""
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    for index, (number, position) in enumerate(zip(numbers.tolist(), positions.tolist(), strict=True)):
        mol.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(index, Point3D(*position))
    rows, columns = np.nonzero(np.triu(orders, 1))
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        mol.AddBond(i, j, _BOND_TYPES[orders[i, j]])
    mol.AddConformer(conformer)
    return mol


def to_pymatgen(atom_set: AtomSet) -> Structure:
    """The crystal as a pymatgen structure, without a check of distances."""
    from pymatgen.core import Lattice, Structure

    assert atom_set.periodic, "a molecule has no cell"
    return Structure(Lattice(atom_set.cell), atom_set.numbers.tolist(), atom_set.fractional)
