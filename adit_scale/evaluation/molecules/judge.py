"""Every protocol asked for, of every sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adit_scale.atoms import MOLECULE
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.molecules.common import Limits, Sample, formula
from adit_scale.evaluation.molecules.determine_bonds import add_rdkit, determined_bonds
from adit_scale.evaluation.molecules.edm import add_edm
from adit_scale.evaluation.molecules.open_babel import add_adit, require_openbabel
from adit_scale.evaluation.molecules.poses import add_posebusters, require_posebusters
from adit_scale.evaluation.molecules.valences import add_geom
from adit_scale.evaluation.verdicts import Verdicts

NEED_BONDS = {"rdkit", "geom", "posebusters"}  # of RDKit's DetermineBonds
SLOWEST_FIRST = ("posebusters", "adit", "rdkit", "geom", "edm")


def judge_molecules(
    samples: Sequence[Sample],
    config: EvaluationConfig,
    known: frozenset[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Verdicts:
    """Verdicts of the protocols ``config.protocols``, one row a sample, in order.

    known: EDM SMILES of the training set (``edm_smiles_of``), for the check ``edm_novel``.
    progress: called with the number of samples just finished in the slowest of the protocols.
    Raises ConfigError where a protocol's package is not installed.
    """
    asked = set(config.protocols)
    if "adit" in asked:
        require_openbabel()
    if "posebusters" in asked:
        require_posebusters()
    slowest = next((name for name in SLOWEST_FIRST if name in asked), "")

    def told(name: str) -> Callable[[int], object] | None:
        return progress if name == slowest else None

    verdicts = Verdicts(MOLECULE, [sample.id for sample in samples], np.array([len(s) for s in samples]))
    verdicts.add_label("formula", [formula(sample.numbers) for sample in samples])
    limits = Limits(config.call_limit_s, config.worker_processes())
    if "edm" in asked:
        add_edm(verdicts, samples, known, limits, told("edm"))
    if asked & NEED_BONDS:
        found = determined_bonds(samples, limits, told("geom" if slowest == "geom" else "rdkit"))
        if "rdkit" in asked:
            add_rdkit(verdicts, found)
        if "geom" in asked:
            add_geom(verdicts, found)
        if "posebusters" in asked:
            add_posebusters(verdicts, found, config.posebusters_energy, limits, told("posebusters"))
    if "adit" in asked:
        add_adit(verdicts, samples, limits, told("adit"))
    return verdicts
