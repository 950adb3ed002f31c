"""A calculator that stops at what would fill the memory, run for ever or compare false with everything."""

from __future__ import annotations

import time

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError, PropertyNotImplementedError, all_changes
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from adit_scale.evaluation.energies.reasons import (
    COLLAPSED,
    EXPLODED,
    NO_NEIGHBOURS,
    NO_STRESS,
    NON_FINITE_ENERGY,
    NON_FINITE_FORCES,
    NON_FINITE_STRUCTURE,
    OVERLAP,
    UNKNOWN_TO_MODEL,
)
from adit_scale.evaluation.verdicts import OVER_TIME

# Diamond, the densest in atoms, has 5.7 Å³ an atom. Neighbours grow as 1/V and their angles as 1/V²: a cell
# of 0.5 Å filled tens of GiB.
MIN_VOLUME_A3_PER_ATOM = 3.0
# From the first volume, or from an ordinary one where the first is squeezed.
MAX_GROWTH, ORDINARY_VOLUME_A3_PER_ATOM = 5.0, 10.0

# Of the sum of covalent radii. No bond is as short, but learned models have minima there, deeper than the
# crystal's.
OVERLAP_SHARE = 0.5

# What models raise on structures that are none. Anything else is a mistake of ours, and is raised.
MODEL_ERRORS = (CalculatorError, ValueError, RuntimeError, ArithmeticError, LookupError)


class Stopped(Exception):
    """A relaxation that was ended. reason: one of ``reasons`` or OVER_TIME."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Guarded(Calculator):
    """Energy, forces and, of crystals, stress of another calculator; raises :class:`Stopped`.

    deadline: in seconds of ``time.monotonic``. calls: evaluations so far.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  as ASE has it

    def __init__(self, inner: Calculator, deadline: float) -> None:
        super().__init__()
        self._inner, self._deadline = inner, deadline
        self._max_volume = np.nan
        self.calls = 0

    def calculate(
        self, atoms: Atoms | None = None, properties: object = None, system_changes: list[str] = all_changes
    ) -> None:
        assert atoms is not None
        super().calculate(atoms, properties, system_changes)
        if time.monotonic() > self._deadline:
            raise Stopped(OVER_TIME)
        self._check_structure(atoms)
        self.calls += 1
        energy = float(self._inner.get_property("energy", atoms))
        if not np.isfinite(energy):
            raise Stopped(NON_FINITE_ENERGY)
        self.results = {"energy": energy, "free_energy": energy}
        names = ("forces", "stress") if atoms.pbc.all() else ("forces",)
        for name in names:
            values = np.asarray(self._inner.get_property(name, atoms), dtype=np.float64)
            if not np.isfinite(values).all():
                raise Stopped(NON_FINITE_FORCES)
            self.results[name] = values

    def _check_structure(self, atoms: Atoms) -> None:
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            raise Stopped(NON_FINITE_STRUCTURE)
        if not atoms.pbc.all():
            return
        volume, n = abs(np.linalg.det(atoms.cell.array)), len(atoms)
        if volume < MIN_VOLUME_A3_PER_ATOM * n:
            raise Stopped(COLLAPSED)
        if np.isnan(self._max_volume):
            self._max_volume = MAX_GROWTH * max(volume, ORDINARY_VOLUME_A3_PER_ATOM * n)
        if volume > self._max_volume:
            raise Stopped(EXPLODED)


def overlap(atoms: Atoms) -> str | None:
    """OVERLAP where two atoms, images included, are nearer than half the sum of their covalent radii."""
    radii = OVERLAP_SHARE * covalent_radii[atoms.numbers]
    return OVERLAP if len(neighbor_list("i", atoms, radii.tolist())) else None


def model_fault(error: Exception) -> str:
    """A reason for what a model raised: few different texts, whatever the numbers in its message."""
    text = str(error)
    if "isolated atom" in text:
        return NO_NEIGHBOURS
    if isinstance(error, PropertyNotImplementedError) and "stress" in text:
        return NO_STRESS
    if isinstance(error, NotImplementedError) or "No support for elements" in text:
        return UNKNOWN_TO_MODEL
    return f"the model fails ({type(error).__name__})"
