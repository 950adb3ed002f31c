"""What a table says of a column of energies: energies and distances are skewed, so median and quartiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from adit_scale.evaluation.verdicts import Verdicts

COLUMNS = (
    "energy_ev_per_atom",
    "relaxed_energy_ev_per_atom",
    "e_above_hull_ev_per_atom",
    "formation_energy_ev_per_atom",
    "relaxation_rmsd_angstrom",
    "relaxation_volume_ratio",
    "mmff_rmsd_angstrom",
    "mmff_energy_drop_kcal_mol_per_atom",
    "xtb_rmsd_angstrom",
    "xtb_energy_drop_kcal_mol_per_atom",
)


@dataclass(frozen=True)
class Spread:
    """Of the ``n`` samples that have a value: quartiles."""

    n: int
    lower: float
    median: float
    upper: float


def spread(values: np.ndarray) -> Spread | None:
    """Of the finite ones among ``values (n,)``; None where there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    lower, median, upper = np.quantile(finite, [0.25, 0.5, 0.75]).tolist()
    return Spread(len(finite), lower, median, upper)


def energy_spreads(verdicts: Verdicts, columns: Iterable[str] = COLUMNS) -> dict[str, Spread]:
    """By column; only those that have a value."""
    found = {name: spread(verdicts.values[name]) for name in columns if name in verdicts.values}
    return {name: of for name, of in found.items() if of is not None}
