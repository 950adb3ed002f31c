"""Stable, unique and novel: the rate of discoveries among all samples asked.

Uniqueness and novelty are judged here on relaxed structures, among those stable enough: two drafts of one
crystal are one discovery, and a draft that relaxes into a known crystal is none. (The checks ``unique`` and
``novel`` of the crystals are about the structures as generated.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals.composition import reduced_composition
from adit_scale.evaluation.crystals.distinct import Distinct
from adit_scale.evaluation.crystals.reduction import reduce_crystal
from adit_scale.evaluation.crystals.references import ReferenceIndex, reference_index
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.limited import map_limited
from adit_scale.evaluation.verdicts import Check, Verdicts

_INLINE = 100
BASES = {"sun": "stable", "msun": "metastable"}


def add_discovery(
    verdicts: Verdicts,
    relaxed: Sequence[AtomSet | None],
    known: Sequence[AtomSet] | ReferenceIndex | None,
    config: EvaluationConfig,
) -> None:
    """Checks ``sun`` and ``msun``: of ``stable`` and ``metastable`` samples the first of each relaxed
    structure that ``known``, the training set, has not. Without ``known`` nothing is added: the rate would be
    another one."""
    if known is None:
        return
    if not isinstance(known, ReferenceIndex):
        wanted = {
            reduced_composition(crystal.numbers)
            for crystal, passed in zip(relaxed, verdicts.passed("metastable"), strict=True)
            if crystal is not None and passed
        }
        known = reference_index(known, config.worker_processes(), config.call_limit_s, wanted)
    for name, base in BASES.items():
        verdicts.add_check(name, _discoveries(verdicts, verdicts.checks[base], relaxed, known, config))


def _discoveries(
    verdicts: Verdicts,
    base: Check,
    relaxed: Sequence[AtomSet | None],
    known: ReferenceIndex,
    config: EvaluationConfig,
) -> Check:
    """The crystals' own checks of uniqueness and novelty, put to relaxed structures that pass ``base``."""
    structures = [crystal or Invalid(CRYSTAL, "", np.zeros(0, dtype=np.int64)) for crystal in relaxed]
    distinct = Distinct(structures, base.passed, replace(config, crystal_uniqueness=True), known)
    cells = map_limited(
        reduce_crystal,
        [crystal for i in distinct.to_reduce if (crystal := relaxed[i]) is not None],
        limit_s=config.call_limit_s,
        # Relaxed cells are sound, and starting processes takes seconds.
        processes=config.worker_processes() if len(distinct.to_reduce) > _INLINE else 0,
    )
    judged = Verdicts(CRYSTAL, verdicts.ids, verdicts.n_atoms, {"valid": base})
    distinct.add_checks(judged, dict(zip(distinct.to_reduce, cells, strict=True)))
    novel = judged.checks["novel"].protocol.removeprefix("valid, and ")
    judged.joint("discovery", ("valid", "unique", "novel"))
    protocol = f"first of its group among those that pass, {novel}, on relaxed structures; {base.protocol}"
    return replace(judged.checks["discovery"], protocol=protocol)
