"""Whether a crystal came back. Imports pymatgen, which processes that match load before their limits run."""

from __future__ import annotations

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.decode import Invalid, to_pymatgen
from adit_scale.evaluation.reconstruction import OTHER_TYPES

# The tolerances of CDVAE (Xie et al. 2022) and DiffCSP (Jiao et al. 2023), lengths relative.
MATCHER = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
NO_MAPPING = "no mapping of sites within the tolerances"


def match_crystal(pair: tuple[AtomSet, AtomSet | Invalid]) -> float | str:
    """The root mean square distance of matched sites over (V/n)^(1/3), or why the two do not match.

    Both are reduced to primitive cells first, and scaled to one volume an atom.
    """
    original, decoded = pair
    if isinstance(decoded, Invalid):
        return decoded.reason
    if not np.array_equal(np.sort(original.numbers), np.sort(decoded.numbers)):
        return OTHER_TYPES
    try:
        found = MATCHER.get_rms_dist(to_pymatgen(original), to_pymatgen(decoded))
    # Reducing the cell of a distorted structure fails in pymatgen in as many ways as these.
    except (ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        return f"not comparable: {type(error).__name__}"
    return NO_MAPPING if found is None else float(found[0])
