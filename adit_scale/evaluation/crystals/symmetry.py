"""Spacegroups of crystals by spglib, at two tolerances.

A generated crystal is symmetric only up to its noise, so the answer hangs on the tolerance: at 0.1 Å more
samples have a spacegroup above P1 than at 0.01 Å. Both are given.
"""

from __future__ import annotations

import os
from importlib.metadata import version

from adit_scale.atoms import AtomSet
from adit_scale.data.sources.symmetry import find_spacegroup
from adit_scale.evaluation.crystals.structure import shape_fault

TOLERANCES_ANGSTROM = (0.1, 0.01)
P1 = "P1"
NO_SPACEGROUP = "spglib finds no spacegroup"


def spacegroups(crystal: AtomSet) -> tuple[int, ...] | str:
    """International number at each of TOLERANCES_ANGSTROM, 0 where there is none; or why it is not asked."""
    fault = shape_fault(crystal)
    if fault is not None:
        return fault
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its lines on the terminal say no more than the 0 does
    return tuple(find_spacegroup(crystal, symprec) for symprec in TOLERANCES_ANGSTROM)


def p1_fault(spacegroup: int) -> str | None:
    """Why the crystal has no symmetry but translations, or None where it has."""
    if spacegroup == 0:
        return NO_SPACEGROUP
    return P1 if spacegroup == 1 else None


def symmetry_protocol(symprec_angstrom: float) -> str:
    return f"spacegroup above P1 by spglib {version('spglib')}, symprec {symprec_angstrom:g} Å"
