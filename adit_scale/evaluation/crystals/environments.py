"""Whether every atom of a crystal has neighbours that CrystalNN can find.

CDVAE (Xie et al. 2022) leaves out crystals whose CrystalNN fingerprint cannot be made. A fingerprint is made
from CrystalNN's neighbours of each site, found without distance cut-offs and without weights by
electronegativity (as matminer's preset "ops" does); what is asked here is that this step ends without an
error for every site. The order parameters that follow are arithmetic on its result and are not made.
"""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import TYPE_CHECKING

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.decode import to_pymatgen

if TYPE_CHECKING:
    from pymatgen.analysis.local_env import CrystalNN

NO_NEIGHBOURS = "CrystalNN finds no neighbours of a site"


def environment_fault(crystal: AtomSet) -> str | None:
    """Why CrystalNN's neighbours cannot be found, or None. May take seconds, or not end."""
    structure = to_pymatgen(crystal)
    finder = _crystal_nn()
    for site in range(len(structure)):
        try:
            finder.get_nn_data(structure, site)
        # Voronoi cells fail in scipy (RuntimeError), in pymatgen (ValueError) or in what follows.
        except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
            return NO_NEIGHBOURS
    return None


def environment_protocol() -> str:
    return (
        f"pymatgen {version('pymatgen')}: CrystalNN (no distance cut-offs, x_diff_weight 0) finds the "
        "neighbours of every site"
    )


@functools.cache
def _crystal_nn() -> CrystalNN:
    from pymatgen.analysis.local_env import CrystalNN  # heavy

    return CrystalNN(distance_cutoffs=None, x_diff_weight=0)
