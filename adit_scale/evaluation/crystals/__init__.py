"""Crystals: structure, composition, symmetry, environments, uniqueness and novelty."""

from __future__ import annotations

from adit_scale.evaluation.crystals.judge import judge_crystals
from adit_scale.evaluation.crystals.references import ReferenceIndex, reference_index

__all__ = ["ReferenceIndex", "judge_crystals", "reference_index"]
