"""Spacegroups by spglib."""

from __future__ import annotations

from typing import Any

import numpy as np
import spglib

from adit_scale.atoms import AtomSet


def find_spacegroup(atom_set: AtomSet, symprec_angstrom: float) -> int:
    """International number of a crystal's spacegroup within a tolerance; 0 where spglib finds none."""
    crystal: Any = (atom_set.cell, atom_set.fractional, np.asarray(atom_set.numbers))
    try:
        dataset = spglib.get_symmetry_dataset(crystal, symprec=symprec_angstrom)
    except spglib.SpglibError:
        return 0
    return int(dataset.number) if dataset is not None else 0
