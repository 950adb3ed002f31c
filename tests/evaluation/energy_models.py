"""Energy models for the tests of module:function, as a user would write them. And alloys."""

from __future__ import annotations

import time

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from adit_scale.atoms import AtomSet


class Broken(Calculator):
    """Energies that are no numbers, after ``wait_s`` seconds."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012  as ASE has it

    def __init__(self, energy: float, wait_s: float = 0.0, error: type[Exception] | None = None) -> None:
        super().__init__()
        self._energy, self._wait_s, self._error = energy, wait_s, error

    def calculate(
        self, atoms: Atoms | None = None, properties: object = None, system_changes: list[str] = all_changes
    ) -> None:
        assert atoms is not None
        super().calculate(atoms, properties, system_changes)
        time.sleep(self._wait_s)
        if self._error is not None:
            raise self._error("no such property or element 12345")
        # A force that never ends: the atoms are pushed apart for ever.
        forces = np.ones((len(atoms), 3)) * np.array([-1, 1])[np.arange(len(atoms)) % 2, None]
        self.results = {"energy": self._energy, "forces": forces, "stress": np.full(6, -1.0)}


def emt() -> Calculator:
    return EMT()


def not_a_number() -> Calculator:
    return Broken(float("nan"))


def slow() -> Calculator:
    return Broken(0.0, wait_s=0.2)


def hanging() -> Calculator:
    return Broken(0.0, wait_s=1000)


def blowing() -> Calculator:
    return Broken(0.0)


def raising() -> Calculator:
    return Broken(0.0, error=ValueError)


def ignorant() -> Calculator:
    return Broken(0.0, error=NotImplementedError)


def mistaken() -> Calculator:
    return Broken(0.0, error=TypeError)


def no_calculator() -> str:
    return "EMT"


not_callable = 3


def alloy(symbols: str, edge: float, id: str = "", noise: float = 0.0, seed: int = 0) -> AtomSet:
    """Four atoms on the cubic face-centred lattice: "AuCuCuCu" is Cu3Au (L1_2), "CuCuAuAu" CuAu (L1_0)."""
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    atoms = Atoms(symbols, scaled_positions=corners, cell=[edge] * 3, pbc=True)
    moved = atoms.positions + noise * np.random.default_rng(seed).normal(size=(4, 3))
    return AtomSet(atoms.numbers, moved, atoms.cell.array, True, "alloys", id=id)
