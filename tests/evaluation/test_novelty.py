from __future__ import annotations

import itertools

import numpy as np
import pytest
from hand_made import crystal
from scipy.spatial.transform import Rotation

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.novelty import novel_crystals, structure_groups, unique_novelty, uniqueness


@pytest.fixture
def caesium_chloride_type() -> AtomSet:
    """NaCl's composition in another structure."""
    return crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 3.4)


def disguised(original: AtomSet) -> AtomSet:
    """The same crystal, rotated, shifted, its atoms in another order, its cell 2% longer."""
    turn = Rotation.from_euler("xyz", [0.3, 1.1, -0.4]).as_matrix()
    order = np.random.default_rng(0).permutation(len(original))
    fractional = (original.fractional[order] + [0.31, 0.12, 0.77]) % 1
    return crystal(original.numbers[order], fractional, 1.02 * original.cell @ turn)


def test_groups_see_through_cell_rotation_and_order(rock_salt, rock_salt_primitive, caesium_chloride_type):
    crystals = [rock_salt, caesium_chloride_type, rock_salt_primitive, disguised(rock_salt)]
    assert structure_groups(crystals) == [0, 1, 0, 0]
    rate = uniqueness(crystals)
    assert (rate.successes, rate.trials) == (2, 4)


def test_groups_do_not_depend_on_the_order():
    """A chain of structures, each like the next but the ends unlike: one group in any order."""

    def stretched(factor: float) -> AtomSet:
        return crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.diag([3.4, 3.4, 3.4 * factor]))

    chain = [stretched(f) for f in (1.0, 1.22, 1.49)]
    assert structure_groups([chain[0], chain[2]]) == [0, 1]
    for order in itertools.permutations(chain):
        assert structure_groups(order) == [0, 0, 0]


def test_novelty_is_against_the_references(rock_salt, rock_salt_primitive, caesium_chloride_type):
    potassium = crystal([19] * 4 + [17] * 4, rock_salt.fractional, rock_salt.cell)
    samples = [rock_salt_primitive, caesium_chloride_type, caesium_chloride_type, potassium]
    assert novel_crystals(samples, [disguised(rock_salt)]) == [False, True, True, True]
    rate = unique_novelty(samples, [disguised(rock_salt)], n_samples=10)
    assert (rate.successes, rate.trials) == (2, 10)
    assert novel_crystals(samples, []) == [True] * 4


def test_nothing():
    assert structure_groups([]) == []
    assert uniqueness([]).trials == 0
