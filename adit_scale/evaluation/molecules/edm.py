"""The EDM protocol: bonds by the distance table (Hoogeboom et al. 2022, arXiv 2203.17003).

The protocol is lax: it keeps only the largest fragment and lets RDKit fill free valences with hydrogen, so
lone atoms count as valid. Read ``edm_connected`` beside ``edm_valid``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import rdkit
from rdkit import Chem, rdBase

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.bonds import bond_orders, edm_table, stable_atoms
from adit_scale.evaluation.decode import rdkit_molecule
from adit_scale.evaluation.molecules.common import FRAGMENTS, Limits, Sample, sample_fault, sanitise_fault
from adit_scale.evaluation.verdicts import Check, Verdicts

UNKNOWN_ELEMENT = "element outside the EDM table"
UNSTABLE = "an atom's bonds sum to no allowed valence"
FRAGMENT_FAULT = "largest fragment does not sanitise"
REPEATED = "repeats an earlier sample"
KNOWN = "is in the training set"

TABLE = (
    f"bonds by EDM's distance table (single +10 pm, double +5 pm, triple +3 pm), RDKit {rdkit.__version__}"
)
PROTOCOLS = {
    "edm_stable": f"every atom's bond orders sum to a valence of EDM's table; {TABLE}",
    "edm_valid": f"RDKit sanitises the molecule and its largest fragment; {TABLE}",
    "edm_connected": f"one fragment; {TABLE}",
    "edm_unique": f"valid and the first of its SMILES (largest fragment, no stereo); {TABLE}",
    "edm_novel": f"valid and its SMILES (largest fragment, no stereo) not in the training set; {TABLE}",
}
# Fewer are judged within seconds (0.15 ms each), which is what starting other processes takes.
INLINE_SAMPLES = 20_000
LIMIT_S = 60.0  # of one real molecule: never reached


@dataclass(frozen=True)
class EdmVerdict:
    """n_stable of n_atoms; smiles of the largest fragment where valid, else the fault."""

    n_atoms: int
    n_stable: int
    smiles: str | None = None
    n_fragments: int = 0
    fault: str | None = None


def judge_edm(molecule: Sample) -> EdmVerdict:
    """Stability and validity of one sample by the EDM protocol."""
    n_atoms = len(molecule)
    fault = sample_fault(molecule)
    if fault is not None:
        return EdmVerdict(n_atoms, 0, fault=fault)
    assert isinstance(molecule, AtomSet)
    orders = bond_orders(molecule.numbers, molecule.positions)
    n_stable = int(stable_atoms(molecule.numbers, orders).sum())
    if not edm_table().known[molecule.numbers].all():
        return EdmVerdict(n_atoms, n_stable, fault=UNKNOWN_ELEMENT)
    mol = rdkit_molecule(molecule.numbers, molecule.positions, orders)
    with rdBase.BlockLogs():  # a bad valence is a result here, not a warning
        n_fragments = len(Chem.GetMolFrags(mol))
        fault = sanitise_fault(mol)
        if fault is None and n_fragments > 1:
            fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
            mol = max(fragments, key=lambda fragment: fragment.GetNumAtoms())
            fault = None if sanitise_fault(mol) is None else FRAGMENT_FAULT
        smiles = Chem.MolToSmiles(mol) if fault is None else None
    return EdmVerdict(n_atoms, n_stable, smiles, n_fragments, fault)


def edm_verdicts(
    samples: Sequence[Sample], limits: Limits, progress: Callable[[int], object] | None = None
) -> list[EdmVerdict]:
    """One verdict a sample, in order; in other processes where there are many."""
    if len(samples) < INLINE_SAMPLES:
        limits = Limits(limits.limit_s, 0)
    reasons = [sample_fault(sample) for sample in samples]
    found = limits.map(judge_edm, samples, reasons, progress)
    return [
        verdict if isinstance(verdict, EdmVerdict) else EdmVerdict(len(sample), 0, fault=verdict)
        for sample, verdict in zip(samples, found, strict=True)
    ]


def edm_smiles_of(sets: Sequence[Sample], processes: int) -> list[str]:
    """SMILES of the valid ones, in order, repeats kept: what ``known`` of the novelty check is made of."""
    verdicts = edm_verdicts(sets, Limits(LIMIT_S, processes))
    return [verdict.smiles for verdict in verdicts if verdict.smiles is not None]


def add_edm(
    verdicts: Verdicts,
    samples: Sequence[Sample],
    known: frozenset[str] | None,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Checks ``edm_*``, value ``edm_stable_atoms``, label ``edm_smiles``. known: as of ``edm_smiles_of``."""
    found = edm_verdicts(samples, limits, progress)
    faults: dict[str, list[str | None]] = {
        "edm_stable": [_stability_fault(verdict) for verdict in found],
        "edm_valid": [verdict.fault for verdict in found],
        "edm_connected": [_connection_fault(verdict) for verdict in found],
        "edm_unique": _repeat_faults(found),
    }
    if known is not None:
        faults["edm_novel"] = [
            verdict.fault or (KNOWN if verdict.smiles in known else None) for verdict in found
        ]
    for name, of in faults.items():
        verdicts.add_check(name, Check.from_faults(of, PROTOCOLS[name]))
    verdicts.add_value("edm_stable_atoms", [verdict.n_stable for verdict in found])
    verdicts.add_label("edm_smiles", [verdict.smiles or "" for verdict in found])


def _stability_fault(verdict: EdmVerdict) -> str | None:
    if verdict.n_atoms and verdict.n_stable == verdict.n_atoms:
        return None
    # A fault of sanitisation is not the reason here: its atoms may all be stable, and here are not.
    return UNSTABLE if verdict.n_fragments else verdict.fault


def _connection_fault(verdict: EdmVerdict) -> str | None:
    if verdict.n_fragments == 1:
        return None
    return FRAGMENTS if verdict.n_fragments else verdict.fault


def _repeat_faults(found: Sequence[EdmVerdict]) -> list[str | None]:
    seen: set[str] = set()
    faults: list[str | None] = []
    for verdict in found:
        repeated = verdict.smiles in seen
        faults.append(verdict.fault or (REPEATED if repeated else None))
        if verdict.smiles is not None:
            seen.add(verdict.smiles)
    return faults
