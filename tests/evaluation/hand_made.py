"""Builders of hand-made systems for the tests of evaluation."""

from __future__ import annotations

import numpy as np

from adit_scale.atoms import AtomSet


def molecule(numbers, positions) -> AtomSet:
    return AtomSet(np.array(numbers), np.array(positions, dtype=float), np.zeros((3, 3)), False, "hand")


def crystal(numbers, fractional, cell) -> AtomSet:
    cell = np.array(cell, dtype=float)
    return AtomSet(np.array(numbers), np.array(fractional, dtype=float) @ cell, cell, True, "hand")
