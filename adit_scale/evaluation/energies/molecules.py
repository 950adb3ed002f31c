"""How far a molecule is from a minimum: relaxation in MMFF94 (RDKit) and with GFN2-xTB (tblite).

Only molecules that pass the rdkit protocol are relaxed: a force field needs their bonds, and a torn molecule
would fly apart. Distances are root mean squares over all atoms after the best rotation, atom k of one for
atom k of the other; energies are drops in kcal/mol per atom. MMFF94 has no parameters for some molecules:
those fail with that reason, and no other force field stands in.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import rdkit
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.reasons import NO_PARAMETERS, NON_FINITE_ENERGY, NOT_CONVERGED
from adit_scale.evaluation.energies.relaxation import to_ase
from adit_scale.evaluation.limited import Overrun, map_limited
from adit_scale.evaluation.molecules.common import sample_fault
from adit_scale.evaluation.molecules.determine_bonds import determine_bonds

KCAL_MOL_PER_EV = 23.060548
MMFF_ITERATIONS = 2000
_STARTUP_S = 30.0  # a process's first call also imports the model

MMFF_PROTOCOL = (
    f"MMFF94 minimisation converges within {MMFF_ITERATIONS} iterations, bonds by the rdkit protocol; "
    f"RDKit {rdkit.__version__}"
)


@dataclass(frozen=True)
class MoleculeRelaxation:
    """fault: or None. drop: energy before less energy after, kcal/mol per atom. positions: after, ``(n, 3)``
    angstrom in the sample's order of atoms; None with a fault."""

    fault: str | None
    drop: float = np.nan
    positions: np.ndarray | None = None


@dataclass(frozen=True)
class RelaxMolecule:
    """A relaxation as a function that can be sent to other processes. method: mmff or xtb."""

    method: str
    config: EnergyConfig

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.method == "xtb":
            Potential("xtb").preload()

    def __call__(self, molecule: AtomSet) -> MoleculeRelaxation:
        bonds = determine_bonds(molecule)
        if bonds.fault is not None:
            return MoleculeRelaxation(bonds.fault)
        assert bonds.mol is not None
        if self.method == "xtb":
            return relax_xtb(molecule, self.config)
        return relax_mmff(Chem.Mol(bonds.mol))  # type: ignore[call-overload]  # stubs know no bytes


def relax_molecules(
    molecules: Sequence[AtomSet | Invalid],
    method: str,
    config: EnergyConfig,
    processes: int,
    progress: Callable[[int], object] | None = None,
) -> list[MoleculeRelaxation]:
    """Each molecule relaxed by ``method``, mmff or xtb; one without a system fails with its reason."""
    found = [MoleculeRelaxation(sample_fault(molecule)) for molecule in molecules]
    whole = [i for i, relaxation in enumerate(found) if relaxation.fault is None]
    if progress is not None:
        progress(len(molecules) - len(whole))
    results = map_limited(
        RelaxMolecule(method, config),
        [m for i in whole if isinstance(m := molecules[i], AtomSet)],
        limit_s=1.5 * config.relax_limit_s + _STARTUP_S,
        processes=processes,
        progress=progress,
    )
    for i, result in zip(whole, results, strict=True):
        found[i] = MoleculeRelaxation(result.reason) if isinstance(result, Overrun) else result
    return found


def relax_mmff(mol: Chem.Mol) -> MoleculeRelaxation:
    """Minimum of MMFF94 nearest to the molecule's conformer; bonds and hydrogens as they are."""
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        field = properties and rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        if not field:
            return MoleculeRelaxation(NO_PARAMETERS)
        before = field.CalcEnergy()
        unfinished = field.Minimize(maxIts=MMFF_ITERATIONS)
        after = field.CalcEnergy()
    positions = mol.GetConformer().GetPositions()
    if not (np.isfinite([before, after]).all() and np.isfinite(positions).all()):
        return MoleculeRelaxation(NON_FINITE_ENERGY)
    if unfinished:
        return MoleculeRelaxation(NOT_CONVERGED.format(MMFF_ITERATIONS))
    return MoleculeRelaxation(None, (before - after) / mol.GetNumAtoms(), positions)


def relax_xtb(molecule: AtomSet, config: EnergyConfig) -> MoleculeRelaxation:
    """Minimum of GFN2-xTB (charge 0, singlet where electrons pair) nearest to the molecule, by BFGS."""
    from ase.optimize import BFGS

    from adit_scale.evaluation.energies.guard import MODEL_ERRORS, Guarded, Stopped, model_fault

    atoms = to_ase(molecule)
    atoms.calc = Guarded(Potential("xtb").calculator(), time.monotonic() + config.relax_limit_s)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = atoms.get_potential_energy()
            optimizer = BFGS(atoms, logfile=None)
            if not optimizer.run(fmax=config.xtb_fmax_ev_per_angstrom, steps=config.max_steps):
                return MoleculeRelaxation(NOT_CONVERGED.format(config.max_steps))
            after = atoms.get_potential_energy()
    except Stopped as stop:
        return MoleculeRelaxation(stop.reason)
    except MODEL_ERRORS as error:
        return MoleculeRelaxation(model_fault(error))
    drop = (before - after) * KCAL_MOL_PER_EV / len(atoms)
    return MoleculeRelaxation(None, drop, atoms.positions.copy())
