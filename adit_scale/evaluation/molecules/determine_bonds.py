"""The RDKit protocol: bonds by RDKit's DetermineBonds (xyz2mol; Kim and Kim 2015), total charge 0.

Valid means: bonds are found, no hydrogen had to be added, one fragment, no radical electrons, formal charges
that sum to 0, and RDKit sanitises. Formal charges that cancel are permitted: a nitro group needs them, and
0.4% of QM9 are zwitterions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import rdkit
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.molecules.common import (
    BAD_VALENCE,
    FRAGMENTS,
    NOT_KEKULISED,
    Limits,
    Sample,
    sample_fault,
    sanitise_fault,
    unbonded,
)
from adit_scale.evaluation.verdicts import Check, Verdicts

# A search that finds no orders within it ends here (2 s on a slow core), the same on every machine; the time
# limit, which is not, is met by large cages alone.
MAX_ITERATIONS = 100_000

NO_CHARGE_ZERO = "no bond orders at charge 0"
NO_VALENCE = "the neighbours of an atom fit no valence"
NO_RULE = "element without bond rules"
TOO_LONG = f"no bond orders in {MAX_ITERATIONS} iterations"
NOT_FOUND = "bonds cannot be determined"
MISSING_HYDROGEN = "an atom needs hydrogen"
RADICAL = "radical electrons"
CHARGED = "net charge"

PROTOCOL = (
    "RDKit's DetermineBonds (connect-the-dots, charge 0, charged fragments allowed, at most "
    f"{MAX_ITERATIONS} iterations) succeeds; one fragment, no added hydrogen, no radicals, formal charges "
    f"sum to 0, sanitises; RDKit {rdkit.__version__}"
)
# RDKit tells these failures apart by their messages alone.
_MESSAGES = {
    "does not match input": NO_CHARGE_ZERO,
    "Unable to determine valence": NO_VALENCE,
    "no valences defined": NO_RULE,
    "Max Iterations Exceeded": TOO_LONG,
}


@dataclass(frozen=True)
class Determined:
    """fault: why the sample fails the protocol, or None. mol: the molecule with bonds, as RDKit's bytes with
    positions in double precision; None where no bonds were found. smiles: canonical, without hydrogens and
    with the stereochemistry of the positions."""

    fault: str | None
    mol: bytes | None = None
    smiles: str = ""


def determine_bonds(sample: AtomSet) -> Determined:
    """Bonds of one sample without a fault of its own. It may run for minutes: call it through Limits.map."""
    mol = unbonded(sample)
    with rdBase.BlockLogs():
        try:
            rdDetermineBonds.DetermineBonds(mol, charge=0, maxIterations=MAX_ITERATIONS)
        except Chem.AtomValenceException:
            return Determined(BAD_VALENCE)
        except Chem.KekulizeException:
            return Determined(NOT_KEKULISED)
        except (ValueError, RuntimeError) as error:
            message = str(error)
            found = (reason for part, reason in _MESSAGES.items() if part in message)
            return Determined(next(found, NOT_FOUND))
        fault = _fault(mol)
        smiles = _heavy_smiles(mol) if fault is None else ""
    flags = Chem.PropertyPickleOptions.AllProps | Chem.PropertyPickleOptions.CoordsAsDouble
    return Determined(fault, mol.ToBinary(int(flags)), smiles)


def _heavy_smiles(mol: Chem.Mol) -> str:
    try:
        return Chem.MolToSmiles(Chem.RemoveHs(mol))
    except Chem.MolSanitizeException:  # valid only as it was, with its hydrogens as atoms
        return Chem.MolToSmiles(mol)


def restored(mol: bytes) -> Chem.Mol:
    """The molecule of ``Determined.mol``."""
    return Chem.Mol(mol)  # type: ignore[call-overload]  # RDKit's stubs say str


def _fault(mol: Chem.Mol) -> str | None:
    """Why a molecule with bonds is not valid, or None."""
    fault = sanitise_fault(mol)
    if fault is not None:
        return fault
    if len(Chem.GetMolFrags(mol)) > 1:
        return FRAGMENTS
    atoms = list(mol.GetAtoms())
    if any(atom.GetTotalNumHs() for atom in atoms):  # hydrogens that are no atoms of the sample
        return MISSING_HYDROGEN
    if any(atom.GetNumRadicalElectrons() for atom in atoms):
        return RADICAL
    return CHARGED if sum(atom.GetFormalCharge() for atom in atoms) else None


def determined_bonds(
    samples: Sequence[Sample], limits: Limits, progress: Callable[[int], object] | None = None
) -> list[Determined]:
    """One result a sample, in order; a sample without a system, or over time, has its reason and no bonds."""
    found = limits.map(determine_bonds, samples, [sample_fault(sample) for sample in samples], progress)
    return [result if isinstance(result, Determined) else Determined(result) for result in found]


def add_rdkit(verdicts: Verdicts, found: Sequence[Determined]) -> None:
    """Check ``rdkit_valid``, label ``rdkit_smiles``."""
    verdicts.add_check("rdkit_valid", Check.from_faults([result.fault for result in found], PROTOCOL))
    verdicts.add_label("rdkit_smiles", [result.smiles for result in found])
