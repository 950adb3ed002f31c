"""Molecule scores, each check under its protocol's name.

Another way of finding bonds gives other numbers: on QM9's own geometries the distance table finds 98% valid
and RDKit's DetermineBonds 94%. So no rate is called "validity" alone.
"""

from adit_scale.evaluation.molecules.edm import edm_smiles_of
from adit_scale.evaluation.molecules.judge import judge_molecules

__all__ = ["edm_smiles_of", "judge_molecules"]
