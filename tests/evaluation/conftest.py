"""Hand-made systems with answers known from textbooks."""

from __future__ import annotations

import numpy as np
import pytest
from hand_made import crystal, molecule

from adit_scale.atoms import AtomSet


@pytest.fixture
def methane() -> AtomSet:
    corner = 1.09 / np.sqrt(3)
    hydrogens = corner * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return molecule([6, 1, 1, 1, 1], np.vstack([np.zeros(3), hydrogens]))


@pytest.fixture
def benzene() -> AtomSet:
    """All C-C bonds 1.397 Å: just above the limit of a double bond; the table has no aromatic order."""
    turn = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(turn), np.sin(turn), np.zeros(6)], axis=1)
    return molecule([6] * 6 + [1] * 6, np.vstack([1.397 * ring, (1.397 + 1.084) * ring]))


@pytest.fixture
def rock_salt() -> AtomSet:
    """NaCl, conventional cell, 8 atoms, nearest neighbours at 2.82 Å."""
    sodium = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return crystal([11] * 4 + [17] * 4, np.vstack([sodium, (sodium + 0.5) % 1]), np.eye(3) * 5.64)


@pytest.fixture
def rock_salt_primitive() -> AtomSet:
    cell = 2.82 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], cell)
