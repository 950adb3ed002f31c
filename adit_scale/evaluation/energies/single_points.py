"""Energies of crystals as they stand, in processes with a time limit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.reasons import NON_FINITE_ENERGY
from adit_scale.evaluation.energies.relaxation import to_ase
from adit_scale.evaluation.limited import Overrun, map_limited

_STARTUP_S = 60.0  # a process's first call also loads the model


@dataclass(frozen=True)
class SinglePoint:
    """fault: why there is no energy, or None. energy: eV/atom, NaN with a fault."""

    fault: str | None
    energy: float = np.nan


@dataclass(frozen=True)
class EnergyOfCrystal:
    """The energy of one crystal as a function that can be sent to other processes."""

    potential: Potential

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.potential.preload()

    def __call__(self, crystal: AtomSet) -> SinglePoint:
        from adit_scale.evaluation.energies.guard import MODEL_ERRORS, model_fault

        fault = structural_fault(crystal)  # what could fill the memory is not asked
        if fault is not None:
            return SinglePoint(fault)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                atoms = to_ase(crystal)
                energy = float(self.potential.calculator().get_property("energy", atoms)) / len(atoms)
        except MODEL_ERRORS as error:
            return SinglePoint(model_fault(error))
        return SinglePoint(None, energy) if np.isfinite(energy) else SinglePoint(NON_FINITE_ENERGY)


def single_points(
    crystals: Sequence[AtomSet],
    potential: Potential,
    config: EnergyConfig,
    processes: int,
    progress: Callable[[int], object] | None = None,
) -> list[SinglePoint]:
    """One a crystal, in order; processes=0 works inline, without a limit."""
    found = map_limited(
        EnergyOfCrystal(potential),
        crystals,
        limit_s=config.relax_limit_s + _STARTUP_S,
        processes=processes,
        progress=progress,
    )
    return [SinglePoint(s.reason) if isinstance(s, Overrun) else s for s in found]
