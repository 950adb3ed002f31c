"""A hull of a model's own energies, from real structures such as the training set.

A model's errors cancel in part when samples and reference come from it; and a Materials Project key is not
needed. The hull is only as complete as the structures: a phase they lack makes everything near it look more
stable than it is. Beside the same structures the Materials Project's own hull has more phases.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.relaxation import Relaxation, relax_crystals

_SIMPLE = ("fcc", "bcc", "hcp", "diamond")


@dataclass(frozen=True)
class ReferenceReport:
    """n_entries: written. failed: structures left out, by reason. uncovered: elements of the structures
    without an elemental entry: no crystal that holds one can be placed above the hull."""

    path: Path
    n_entries: int
    failed: dict[str, int] = field(default_factory=dict)
    uncovered: tuple[str, ...] = ()


def reference_entries_from_structures(
    sets: Sequence[AtomSet],
    potential: Potential,
    out: Path,
    config: EnergyConfig | None = None,
    processes: int = 0,
    progress: Callable[[int], object] | None = None,
    add_elements: bool = True,
) -> ReferenceReport:
    """Relax the crystals and write their energies as a hull's entries (``entries.py`` reads them).

    add_elements: of elements that no structure is of alone, add the textbook structure (ASE's reference
    states: fcc, bcc, hcp, diamond), relaxed alike. Oxygen, halogens and others have no such: give structures
    of them. What cannot be relaxed is left out and counted.
    """
    config = config or EnergyConfig()
    extra = elemental_crystals(_without_entry(sets)) if add_elements else []
    chosen = [*sets, *extra]
    faults = [structural_fault(crystal) for crystal in chosen]
    whole = [crystal for crystal, fault in zip(chosen, faults, strict=True) if fault is None]
    relaxations = relax_crystals(whole, potential, config, processes, progress)
    done = [(crystal, r) for crystal, r in zip(whole, relaxations, strict=True) if r.fault is None]
    failed = Counter([f for f in faults if f] + [r.fault for r in relaxations if r.fault])
    _write(out, potential, config, done, failed)
    return ReferenceReport(out, len(done), dict(failed), tuple(_without_entry([c for c, _ in done])))


def elemental_crystals(symbols: Sequence[str]) -> list[AtomSet]:
    """Of the elements whose reference state is fcc, bcc, hcp or diamond: that crystal, primitive cell."""
    from ase.build import bulk
    from ase.data import atomic_numbers, reference_states

    crystals = []
    for symbol in symbols:
        state = reference_states[atomic_numbers[symbol]]
        if state is not None and state["symmetry"] in _SIMPLE:
            atoms = bulk(symbol)
            name = f"{symbol}-{state['symmetry']}"
            crystals.append(
                AtomSet(atoms.numbers, atoms.positions, atoms.cell.array, True, "elements", id=name)
            )
    return crystals


def _without_entry(sets: Sequence[AtomSet]) -> list[str]:
    """Symbols of elements that occur, but in no crystal alone."""
    from ase.data import chemical_symbols

    kinds = [np.unique(crystal.numbers) for crystal in sets]
    alone = {int(k[0]) for k in kinds if len(k) == 1}
    return [chemical_symbols[z] for z in sorted({int(z) for k in kinds for z in k} - alone)]


def _write(
    out: Path,
    potential: Potential,
    config: EnergyConfig,
    done: Sequence[tuple[AtomSet, Relaxation]],
    failed: Counter[str],
) -> None:
    from ase.symbols import Symbols

    about = {
        "energies": potential.scale or f"of {potential.describe()}",
        "model": potential.describe(),
        "relaxation": {"optimizer": config.optimizer, "fmax_ev_per_angstrom": config.fmax_ev_per_angstrom},
        "left_out": dict(failed),
    }
    entries = [
        (
            f"{crystal.dataset}/{crystal.id}" if crystal.id else "",
            Symbols(crystal.numbers).get_chemical_formula(),
            r.relaxed_energy,
        )
        for crystal, r in done
    ]
    write_entries(out, about, entries)


def write_entries(out: Path, about: Mapping[str, Any], entries: Sequence[tuple[str, str, float]]) -> None:
    """A file that ``entries.py`` reads, whole or not at all. about: what it says of itself. entries: id,
    formula, eV/atom."""
    rows = [
        {"composition": formula, "energy_ev_per_atom": energy, "id": id} for id, formula, energy in entries
    ]
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps({**about, "entries": rows}, indent=1) + "\n", encoding="utf-8")
    part.replace(out)
