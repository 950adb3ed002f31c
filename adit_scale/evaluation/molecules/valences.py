"""The GEOM protocol: every atom has a valence seen with its element and charge in real drug-like molecules.

A valence is the sum of an atom's bond orders in a kekulised molecule: single, double and triple bonds only.
Older tables summed aromatic bonds as 1 or as a rounded 1.5 and so allowed carbons of three bonds. The allowed
ones are those of "GEOM-Drugs revisited" (Nikitin et al. 2025, arXiv 2505.00169), which its authors counted in
the cleaned GEOM-Drugs data. Bonds and charges come from RDKit's DetermineBonds: models here draw positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import rdkit
from rdkit import Chem

from adit_scale.evaluation.molecules.common import NOT_KEKULISED
from adit_scale.evaluation.molecules.determine_bonds import Determined, restored
from adit_scale.evaluation.verdicts import Check, Verdicts

UNKNOWN_ELEMENT = "element outside the GEOM table"
UNSTABLE = "valence not in the GEOM table"

# [element][formal charge]: sums of bond orders.
ALLOWED_VALENCES: dict[str, dict[int, tuple[int, ...]]] = {
    "H": {0: (1,)},
    "B": {-1: (4,), 0: (3,)},
    "C": {-1: (3,), 0: (4,), 1: (3,)},
    "N": {-2: (1,), -1: (2,), 0: (3,), 1: (4,)},
    "O": {-1: (1,), 0: (2,), 1: (3,)},
    "F": {0: (1,)},
    "Si": {0: (4,), 1: (5,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {-1: (1,), 0: (2, 3, 6), 1: (3,), 2: (4,), 3: (2, 5)},
    "Cl": {0: (1,), 1: (2,)},
    "Br": {0: (1,), 1: (2,)},
    "I": {0: (1,), 1: (2,), 2: (3,)},
    "Bi": {0: (3,), 2: (5,)},
}
PROTOCOL = (
    "every atom has a valence of the GEOM-Drugs revisited table for its element and formal charge; bonds and "
    f"charges by RDKit's DetermineBonds, kekulised; RDKit {rdkit.__version__}"
)


def atom_faults(mol: Chem.Mol) -> list[str | None]:
    """Why each atom of a molecule with all its hydrogens is not stable, None where it is."""
    kekulised = Chem.RWMol(mol)
    try:
        Chem.Kekulize(kekulised, clearAromaticFlags=True)
    except Chem.KekulizeException:
        return [NOT_KEKULISED] * mol.GetNumAtoms()
    faults: list[str | None] = []
    for atom in kekulised.GetAtoms():
        charges = ALLOWED_VALENCES.get(atom.GetSymbol())
        valence = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        if charges is None:
            faults.append(UNKNOWN_ELEMENT)
        else:
            faults.append(None if valence in charges.get(atom.GetFormalCharge(), ()) else UNSTABLE)
    return faults


def add_geom(verdicts: Verdicts, found: Sequence[Determined]) -> None:
    """Check ``geom_stable``, value ``geom_stable_atoms``. A sample without bonds has no stable atom and fails
    for the reason that it has none."""
    faults: list[str | None] = []
    n_stable: list[int] = []
    for result in found:
        of_atoms = [result.fault] if result.mol is None else atom_faults(restored(result.mol))
        faults.append(next((fault for fault in of_atoms if fault is not None), None))
        n_stable.append(of_atoms.count(None))
    verdicts.add_check("geom_stable", Check.from_faults(faults, PROTOCOL))
    verdicts.add_value("geom_stable_atoms", n_stable)
