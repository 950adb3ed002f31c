"""PoseBusters' geometry checks (bond lengths, angles, clashes) on arrays, with PoseBusters' verdicts.

PoseBusters compares each pair of atoms in a Python function of a table's row: 50 to 90 ms for a molecule of
QM9's size, and minutes for one of 200 atoms. The same rule on arrays takes 1 ms. Source of the rule:
Buttenschoen, Morris and Deane 2024 (Chem. Sci. 15, 3130) and the package's defaults.

Every pair of heavy atoms has a shortest and a longest distance by RDKit's distance geometry. A bond may be
outside them by a share of the bound, an angle (a pair with a common neighbour) too; any other pair may not be
nearer than its lower bound by a share of it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdDistGeom import GetMoleculeBoundsMatrix

OUTPUTS = ("bond_lengths_within_bounds", "bond_angles_within_bounds", "no_internal_clash")

# The O or N ends of a carboxylate, a nitro group and the like: which end carries the double bond is
# arbitrary, so their bonds of equal elements share the widest of their bounds.
_CONJUGATED_ENDS = "[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]"


def check_geometry(
    mol: Chem.Mol,
    bound_matrix_params: Mapping[str, Any],
    threshold_bad_bond_length: float,
    threshold_bad_angle: float,
    threshold_clash: float,
) -> dict[str, bool]:
    """The verdicts ``OUTPUTS`` of a molecule in its first conformer; thresholds are shares of the bounds.

    All three fail where the molecule has no conformer, does not sanitise or has no bounds. One atom passes.
    """
    if not mol.GetNumConformers():
        return dict.fromkeys(OUTPUTS, False)
    if mol.GetNumAtoms() == 1:
        return dict.fromkeys(OUTPUTS, True)
    mol = Chem.Mol(mol)
    if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return dict.fromkeys(OUTPUTS, False)
    try:
        bounds = GetMoleculeBoundsMatrix(mol, **bound_matrix_params)
    except RuntimeError:
        return dict.fromkeys(OUTPUTS, False)
    lower, upper = np.tril(bounds).T, np.triu(bounds)
    _widen_conjugated_ends(mol, lower, upper)

    heavy = np.array([atom.GetAtomicNum() != 1 for atom in mol.GetAtoms()])
    bonded = Chem.GetAdjacencyMatrix(mol).astype(bool)
    pair = np.triu(heavy[:, None] & heavy[None, :], 1)
    adjacency = bonded.astype(np.int64)
    bond = pair & bonded
    angle = pair & ~bonded & (adjacency @ adjacency > 0)
    positions = mol.GetConformer().GetPositions()
    distance = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        short, long = (distance - lower) / lower, (distance - upper) / upper
    too_near, too_far = distance < lower, distance > upper

    def outside(share: float) -> np.ndarray:
        return (too_near & (np.abs(short) > share)) | (too_far & (np.abs(long) > share))

    clash = too_near & (short < -threshold_clash)
    return {
        "bond_lengths_within_bounds": not (bond & outside(threshold_bad_bond_length)).any(),
        "bond_angles_within_bounds": not (angle & outside(threshold_bad_angle)).any(),
        "no_internal_clash": not (pair & ~bond & ~angle & clash).any(),
    }


def _widen_conjugated_ends(mol: Chem.Mol, lower: np.ndarray, upper: np.ndarray) -> None:
    """In place; both arrays hold the pair (i, j) at i < j."""
    groups: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for match in mol.GetSubstructMatches(_conjugated_ends()):
        i, j = sorted(match)
        elements = tuple(sorted(mol.GetAtomWithIdx(k).GetSymbol() for k in (i, j)))
        groups.setdefault(elements, []).append((i, j))
    for pairs in groups.values():
        rows, columns = np.array(pairs).T
        lower[rows, columns] = lower[rows, columns].min()
        upper[rows, columns] = upper[rows, columns].max()


@functools.cache
def _conjugated_ends() -> Chem.Mol:
    return Chem.MolFromSmarts(_CONJUGATED_ENDS)
