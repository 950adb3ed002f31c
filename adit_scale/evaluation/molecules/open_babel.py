"""The ADiT protocol: bonds by Open Babel; the largest fragment must sanitise in RDKit.

It is the laxest of all: atoms that Open Babel leaves without bonds are fragments of their own, and RDKit
fills free valences with hydrogen. So even a heap of lone atoms is valid, and the rate says little alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from rdkit import Chem, rdBase

from adit_scale.atoms import AtomSet
from adit_scale.errors import ConfigError
from adit_scale.evaluation.decode import rdkit_molecule
from adit_scale.evaluation.molecules.common import Importing, Limits, Sample, sample_fault, sanitise_fault
from adit_scale.evaluation.verdicts import Check, Verdicts

PACKAGE = "openbabel-wheel"


def require_openbabel() -> None:
    """Raises ConfigError where Open Babel's Python package is not installed."""
    if importlib.util.find_spec("openbabel") is None:
        raise ConfigError(
            "evaluation.protocols has adit, but the package openbabel is not installed; "
            "pip install 'adit-scale[chemistry]' or take adit out"
        )


def perceived(molecule: AtomSet) -> tuple[np.ndarray, list[int]]:
    """Bond orders ``(n, n)`` and formal charges by Open Babel's ConnectTheDots and PerceiveBondOrders."""
    from openbabel import openbabel  # an extra

    openbabel.obErrorLog.StopLogging()  # it writes warnings to stderr from C++
    mol = openbabel.OBMol()
    mol.BeginModify()
    for number, position in zip(molecule.numbers.tolist(), molecule.positions.tolist(), strict=True):
        atom = mol.NewAtom()
        atom.SetAtomicNum(number)
        atom.SetVector(*position)
    mol.EndModify()
    mol.ConnectTheDots()
    mol.PerceiveBondOrders()
    orders = np.zeros((len(molecule), len(molecule)), dtype=np.int64)
    for bond in openbabel.OBMolBondIter(mol):
        i, j = bond.GetBeginAtomIdx() - 1, bond.GetEndAtomIdx() - 1
        orders[i, j] = orders[j, i] = min(bond.GetBondOrder(), 3)
    return orders, [atom.GetFormalCharge() for atom in openbabel.OBMolAtomIter(mol)]


def adit_fault(molecule: AtomSet) -> str:
    """Why the largest fragment does not sanitise, or "". Of fragments of equal size the first counts."""
    orders, charges = perceived(molecule)
    mol = rdkit_molecule(molecule.numbers, molecule.positions, orders)
    for atom, charge in zip(mol.GetAtoms(), charges, strict=True):
        atom.SetFormalCharge(charge)
    with rdBase.BlockLogs():
        fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
        return sanitise_fault(max(fragments, key=lambda fragment: fragment.GetNumAtoms())) or ""


def add_adit(
    verdicts: Verdicts,
    samples: Sequence[Sample],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Check ``adit_valid``. Raises ConfigError without Open Babel."""
    require_openbabel()
    function = Importing("openbabel.openbabel", adit_fault)
    faults = limits.map(function, samples, [sample_fault(sample) for sample in samples], progress)
    protocol = (
        "bonds by Open Babel's ConnectTheDots and PerceiveBondOrders, largest fragment sanitises in RDKit; "
        f"{PACKAGE} {version(PACKAGE)}, RDKit {version('rdkit')}"
    )
    verdicts.add_check("adit_valid", Check.from_faults([fault or None for fault in faults], protocol))
