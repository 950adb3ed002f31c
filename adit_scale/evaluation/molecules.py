"""Molecule scores of the EDM distance-table protocol (Hoogeboom et al. 2022).

Every rate is named after the protocol, since another way of finding bonds gives other numbers: on QM9's own
geometries this one finds 98% valid and RDKit's DetermineBonds 93%. The protocol is lax: it keeps only the
largest fragment and lets RDKit fill free valences with hydrogen, so lone atoms count as valid. Read
``edm_valid_and_connected`` beside ``edm_validity``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.bonds import bond_orders, edm_table, stable_atoms
from adit_scale.evaluation.decode import NON_FINITE_COORDINATES, Invalid, rdkit_molecule
from adit_scale.evaluation.statistics import Rate

UNKNOWN_ELEMENT = "element outside the EDM table"
FRAGMENT_FAULT = "largest fragment does not sanitise"
SANITISE_FAULTS = {
    Chem.SanitizeFlags.SANITIZE_PROPERTIES: "valence not possible",
    Chem.SanitizeFlags.SANITIZE_KEKULIZE: "rings cannot be kekulised",
}


@dataclass(frozen=True)
class MoleculeVerdict:
    """n_stable of n_atoms; smiles of the largest fragment where valid, else the fault."""

    n_atoms: int
    n_stable: int
    smiles: str | None = None
    n_fragments: int = 0
    fault: str | None = None


@dataclass(frozen=True)
class DomainScores:
    """Rates by name; of a rate, how many samples failed it for which reason; indices of valid samples."""

    rates: dict[str, Rate]
    reasons: dict[str, dict[str, int]]
    valid: tuple[int, ...]


def judge_molecule(molecule: AtomSet | Invalid) -> MoleculeVerdict:
    """Stability and validity of one sample by the EDM protocol."""
    n_atoms = len(molecule)
    if isinstance(molecule, Invalid):
        return MoleculeVerdict(n_atoms, 0, fault=molecule.reason)
    # No comparison with NaN holds, so a molecule of NaNs would pass as lone atoms.
    if not np.isfinite(molecule.positions).all():
        return MoleculeVerdict(n_atoms, 0, fault=NON_FINITE_COORDINATES)
    orders = bond_orders(molecule.numbers, molecule.positions)
    n_stable = int(stable_atoms(molecule.numbers, orders).sum())
    if not edm_table().known[molecule.numbers].all():
        return MoleculeVerdict(n_atoms, n_stable, fault=UNKNOWN_ELEMENT)
    mol = rdkit_molecule(molecule.numbers, molecule.positions, orders)
    fault = _sanitise(mol)
    if fault is not None:
        return MoleculeVerdict(n_atoms, n_stable, fault=fault)
    fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    largest = max(fragments, key=lambda fragment: fragment.GetNumAtoms())
    if _sanitise(largest) is not None:
        return MoleculeVerdict(n_atoms, n_stable, fault=FRAGMENT_FAULT)
    return MoleculeVerdict(n_atoms, n_stable, Chem.MolToSmiles(largest), len(fragments))


def _sanitise(mol: Chem.Mol) -> str | None:
    """RDKit's full sanitisation in place; the fault where a step fails."""
    failed = Chem.SanitizeMol(mol, catchErrors=True)
    if failed == Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    return SANITISE_FAULTS.get(failed, f"sanitisation fails: {failed}")


def score_molecules(molecules: Sequence[AtomSet | Invalid], confidence: float = 0.95) -> DomainScores:
    """Rates over all samples given, invalid ones included.

    edm_atom_stability: stable atoms over atoms; its interval is by molecules, whose atoms fail together.
    edm_molecule_stability: molecules of stable atoms only.
    edm_validity: RDKit sanitises the molecule of the table's bonds.
    edm_valid_and_connected: valid, and one fragment.
    edm_uniqueness: distinct SMILES over valid molecules (it falls with the number of samples: compare at
        equal numbers). edm_valid_and_unique: distinct SMILES over all samples.
    """
    with rdBase.BlockLogs():  # a bad valence is a result here, not a warning
        verdicts = [judge_molecule(molecule) for molecule in molecules]
    n = len(verdicts)
    smiles = [v.smiles for v in verdicts if v.smiles is not None]
    n_stable = [v.n_stable for v in verdicts]
    n_atoms = [v.n_atoms for v in verdicts]

    def rate(successes: int, trials: int) -> Rate:
        return Rate(successes, trials, confidence)

    rates = {
        "edm_atom_stability": Rate.of_clusters(n_stable, n_atoms, confidence),
        "edm_molecule_stability": rate(sum(v.n_stable == v.n_atoms for v in verdicts), n),
        "edm_validity": rate(len(smiles), n),
        "edm_valid_and_connected": rate(sum(v.n_fragments == 1 for v in verdicts), n),
        "edm_uniqueness": rate(len(set(smiles)), len(smiles)),
        "edm_valid_and_unique": rate(len(set(smiles)), n),
    }
    faults = Counter(v.fault for v in verdicts if v.fault is not None)
    valid = tuple(i for i, v in enumerate(verdicts) if v.smiles is not None)
    return DomainScores(rates, {"edm_validity": dict(faults.most_common())}, valid)
