"""Energy above the convex hull of reference entries.

The hull of a composition's elements is pymatgen's PhaseDiagram of the entries made of those elements alone,
built once a set of elements. The energies compared must be of one kind: see :func:`kinds_note`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adit_scale.evaluation.energies.entries import Entry, EntryFile, read_entries

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Composition

NO_REFERENCE = "no elemental reference: {}"
TOO_MANY_ELEMENTS = "more than 8 elements, too many for a phase diagram"
# Qhull's time grows by a factor of about ten an element: 0.8 s at 8 with 600 entries.
MAX_ELEMENTS = 8
_DIAGRAMS = 2000  # kept; one of three elements holds some tens of kB


@dataclass(frozen=True)
class Place:
    """eV/atom, NaN with a fault. above_hull: negative where below it. formation: from the elements."""

    above_hull: float = np.nan
    formation: float = np.nan
    fault: str | None = None


class Hull:
    """Reference entries, by chemical system."""

    def __init__(self, reference: EntryFile) -> None:
        self._reference = reference
        self._by_system: dict[frozenset[str], list[Entry]] = defaultdict(list)
        for entry in reference.entries:
            self._by_system[entry.system].append(entry)
        self._diagrams: dict[frozenset[str], PhaseDiagram] = {}

    @staticmethod
    def read(path: Path) -> Hull:
        """Raises DataError for a file that has no reference entries."""
        return Hull(read_entries(path))

    def describe(self) -> str:
        """Name, digest and kind of the entries, for protocols."""
        return f"hull {self._reference.describe()}"

    @property
    def energies(self) -> str:
        """What the file says its energies are; "" where it says nothing."""
        return self._reference.energies

    @property
    def model(self) -> str:
        """The energy model that made the entries; "" where the file does not say."""
        return self._reference.model

    def place(self, numbers: np.ndarray, energy: float) -> Place:
        """Of a crystal of these atomic ``numbers (n,)`` and energy in eV/atom."""
        from pymatgen.core import Composition, Element

        kinds, counts = np.unique(numbers, return_counts=True)
        symbols = [Element.from_Z(int(z)).symbol for z in kinds]
        fault = self._uncovered(frozenset(symbols))
        if fault is not None:
            return Place(fault=fault)
        composition = Composition(dict(zip(symbols, counts.tolist(), strict=True)))
        diagram = self._diagram(frozenset(symbols))
        above = energy - diagram.get_hull_energy_per_atom(composition)
        return Place(float(above), float(energy - _of_elements(diagram, composition)))

    def _uncovered(self, system: frozenset[str]) -> str | None:
        if len(system) > MAX_ELEMENTS:
            return TOO_MANY_ELEMENTS
        missing = sorted(symbol for symbol in system if frozenset([symbol]) not in self._by_system)
        return NO_REFERENCE.format(", ".join(missing)) if missing else None

    def _diagram(self, system: frozenset[str]) -> PhaseDiagram:
        if system not in self._diagrams:
            from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
            from pymatgen.core import Composition

            inside = [e for part, found in self._by_system.items() if part <= system for e in found]
            entries = [
                PDEntry(c := Composition(dict(entry.amounts)), entry.energy * c.num_atoms, entry.id or None)
                for entry in inside
            ]
            if len(self._diagrams) >= _DIAGRAMS:
                self._diagrams.clear()
            self._diagrams[system] = PhaseDiagram(entries)
        return self._diagrams[system]


def _of_elements(diagram: PhaseDiagram, composition: Composition) -> float:
    """eV/atom of the elements' own references in these shares."""
    return sum(
        composition.get_atomic_fraction(element) * entry.energy_per_atom
        for element, entry in diagram.el_refs.items()
        if element in composition
    )


def kinds_note(model_scale: str, hull_energies: str) -> str:
    """One clause that says whether model and hull speak of the same energies, as far as both tell."""
    model = f"the model's energies are {model_scale}" if model_scale else "the model's energies are its own"
    hull = f"the hull's are {hull_energies}" if hull_energies else "the hull's file does not say which it has"
    return f"{model}; {hull}"
