"""Relaxation of crystals, cell and positions, in processes with a time limit.

Energies in eV/atom, lengths in angstrom. A model may fail on what a network draws (no neighbours, coincident
atoms, a collapsing cell whose neighbour lists fill the memory), so every call of it is guarded; a fault is
the sample's, never the program's.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adit_scale.atoms import AtomSet, wrap
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.reasons import NOT_CONVERGED
from adit_scale.evaluation.limited import Overrun, map_limited

if TYPE_CHECKING:
    from ase import Atoms

_STARTUP_S = 60.0  # a process's first call also loads the model


@dataclass(frozen=True)
class Relaxation:
    """fault: why there is no relaxed structure, or None. energy, relaxed_energy: eV/atom before and after,
    NaN where unknown. rmsd: angstrom, see :func:`displacement`. volume_ratio: after over before. steps:
    evaluations of the model. relaxed: the structure it ended in, None with a fault."""

    fault: str | None
    energy: float = np.nan
    relaxed_energy: float = np.nan
    rmsd: float = np.nan
    volume_ratio: float = np.nan
    steps: int = 0
    relaxed: AtomSet | None = None


class Relaxer(Protocol):
    """What :func:`relax_crystals` does; one relaxation a crystal, in order."""

    def __call__(
        self,
        crystals: Sequence[AtomSet],
        potential: Potential,
        config: EnergyConfig,
        processes: int,
        progress: Callable[[int], object] | None = None,
    ) -> list[Relaxation]: ...


@dataclass(frozen=True)
class RelaxCrystal:
    """The relaxation of one crystal as a function that can be sent to other processes."""

    potential: Potential
    config: EnergyConfig

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.potential.preload()

    def __call__(self, crystal: AtomSet) -> Relaxation:
        return relax_crystal(crystal, self.potential, self.config)


def relax_crystals(
    crystals: Sequence[AtomSet],
    potential: Potential,
    config: EnergyConfig,
    processes: int,
    progress: Callable[[int], object] | None = None,
) -> list[Relaxation]:
    """Each crystal relaxed; processes=0 works inline. A process that hangs in the model is killed a little
    after the limit, so that the limit itself ends a relaxation between two steps."""
    found = map_limited(
        RelaxCrystal(potential, config),
        crystals,
        limit_s=1.5 * config.relax_limit_s + _STARTUP_S,
        processes=processes,
        progress=progress,
    )
    return [Relaxation(r.reason) if isinstance(r, Overrun) else r for r in found]


def relax_crystal(crystal: AtomSet, potential: Potential, config: EnergyConfig) -> Relaxation:
    """Positions and cell to the nearest minimum by ASE's optimiser with FrechetCellFilter."""
    from adit_scale.evaluation.energies.guard import MODEL_ERRORS, Guarded, Stopped, model_fault, overlap

    atoms = to_ase(crystal)
    atoms.calc = guard = Guarded(potential.calculator(), time.monotonic() + config.relax_limit_s)
    energy = np.nan
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # divisions by zero distances, which the guard reports
            energy = atoms.get_potential_energy() / len(atoms)
            converged = _optimise(atoms, config)
    except Stopped as stop:
        return Relaxation(stop.reason, energy, steps=guard.calls)
    except MODEL_ERRORS as error:
        return Relaxation(model_fault(error), energy, steps=guard.calls)
    fault = overlap(atoms) if converged else NOT_CONVERGED.format(config.max_steps)
    if fault is not None:
        return Relaxation(fault, energy, steps=guard.calls)
    return Relaxation(
        None,
        energy,
        relaxed_energy=atoms.get_potential_energy() / len(atoms),
        rmsd=displacement(crystal.positions, crystal.cell, atoms.positions, atoms.cell.array),
        volume_ratio=float(atoms.get_volume() / abs(np.linalg.det(crystal.cell))),
        steps=guard.calls,
        relaxed=_from_ase(atoms, crystal),
    )


def _optimise(atoms: Atoms, config: EnergyConfig) -> bool:
    """Whether forces on atoms and cell fell under the limit."""
    from ase import optimize
    from ase.filters import FrechetCellFilter

    optimizer = getattr(optimize, config.optimizer)(FrechetCellFilter(atoms), logfile=None)
    return bool(optimizer.run(fmax=config.fmax_ev_per_angstrom, steps=config.max_steps))


def displacement(
    positions: np.ndarray, cell: np.ndarray, relaxed_positions: np.ndarray, relaxed_cell: np.ndarray
) -> float:
    """Root mean square displacement of the atoms ``(n, 3)``, angstrom; positions not wrapped.

    Which atom is which is known, so nothing is matched: the change of the fractional coordinates, less their
    mean (a crystal has no origin), in the relaxed cell. A change of the cell alone counts as 0.
    """
    moved = relaxed_positions @ np.linalg.inv(relaxed_cell) - positions @ np.linalg.inv(cell)
    moved -= moved.mean(axis=0)
    return float(np.sqrt(((moved @ relaxed_cell) ** 2).sum(axis=1).mean()))


def to_ase(atom_set: AtomSet) -> Atoms:
    from ase import Atoms

    cell = atom_set.cell if atom_set.periodic else None
    return Atoms(atom_set.numbers, atom_set.positions, cell=cell, pbc=atom_set.periodic)


def _from_ase(atoms: Atoms, like: AtomSet) -> AtomSet:
    cell = atoms.cell.array.copy()
    positions = wrap(atoms.positions @ np.linalg.inv(cell)) @ cell
    return replace(like, positions=positions, cell=cell)
