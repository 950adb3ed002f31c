from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hand_made import crystal
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.crystals.structure import (
    LARGE_CELL,
    OVERLAP,
    SMALL_VOLUME,
    has_overlap,
    minkowski_reduced,
    structural_fault,
)
from adit_scale.evaluation.decode import (
    NON_FINITE_CELL,
    NON_FINITE_COORDINATES,
    cell_fault,
    cell_matrix,
)


def brute_force_distance(positions: np.ndarray, cell: np.ndarray, reach: int) -> float:
    """Shortest distance over all images up to ``reach`` cells away."""
    images = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    vectors = positions[:, None, None] - positions[None, :, None] + images @ cell
    distances = np.linalg.norm(vectors, axis=-1)
    own = np.arange(len(positions))
    distances[own, own, len(images) // 2] = np.inf  # an atom is no neighbour of itself
    return float(distances.min())


def test_rock_salt_is_valid(rock_salt):
    assert structural_fault(rock_salt) is None


@pytest.mark.parametrize(("gap", "fault"), [(0.0, OVERLAP), (0.499, OVERLAP), (0.501, None)])
def test_atoms_across_the_cell_wall_are_seen(gap, fault):
    edge = 5.0
    pair = crystal([11, 17], [[0.001, 0.5, 0.5], [(0.001 - gap / edge) % 1, 0.5, 0.5]], np.eye(3) * edge)
    assert structural_fault(pair) == fault


def test_an_atom_is_checked_against_its_own_images():
    assert structural_fault(crystal([29], [[0, 0, 0]], np.diag([0.45, 5, 5]))) == OVERLAP
    # Every edge is 5 Å or longer, but a + b is 0.4 Å long.
    skewed = np.array([[5.0, 0, 0], [-5.0, 0.4, 0], [0, 0, 5.0]])
    assert structural_fault(crystal([29], [[0, 0, 0]], skewed)) == OVERLAP
    assert structural_fault(crystal([29], [[0, 0, 0]], np.diag([0.55, 5, 5]))) is None


def test_tiny_and_flat_cells():
    assert structural_fault(crystal([29], [[0, 0, 0]], np.diag([0.46, 0.46, 0.46]))) == SMALL_VOLUME
    flat = np.array([[5.0, 0, 0], [0, 5.0, 0], [5.0, 5.0, 0]])
    zero_volume = AtomSet(np.array([29]), np.zeros((1, 3)), flat, True, "hand")
    assert structural_fault(zero_volume) == SMALL_VOLUME


def test_a_flat_cell_of_long_edges_has_no_volume():
    """Its determinant is rounding: over 0.1 Å³ here, though the three edges lie in a plane."""
    a, b = 1e6 * np.array([0.3, 0.4, 0.5]), 1e6 * np.array([0.7, 0.1, 0.2])
    flat = np.stack([a, b, a + b * (1 + 1e-15)])
    assert structural_fault(AtomSet(np.array([29]), np.zeros((1, 3)), flat, True, "hand")) == SMALL_VOLUME
    needle = np.diag([1e6, 0.6, 0.6])
    assert structural_fault(crystal([29], [[0, 0, 0]], needle)) is None
    assert structural_fault(crystal([29], [[0, 0, 0]], np.diag([1e10, 3, 3]))) == LARGE_CELL


def test_not_finite(rock_salt):
    positions = rock_salt.positions.copy()
    positions[2, 1] = np.nan
    assert structural_fault(AtomSet(rock_salt.numbers, positions, rock_salt.cell, True, "")) == (
        NON_FINITE_COORDINATES
    )
    cell = rock_salt.cell * np.nan
    assert (
        structural_fault(AtomSet(rock_salt.numbers, rock_salt.positions, cell, True, "")) == NON_FINITE_CELL
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.6, 6), min_size=3, max_size=3).map(np.array),
    st.lists(st.floats(0.5, 2.7), min_size=3, max_size=3).map(np.array),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_overlap_agrees_with_brute_force(lengths, angles, n, seed):
    assume(cell_fault(lengths, angles) is None)
    cell = cell_matrix(lengths, angles)
    assume(abs(np.linalg.det(cell)) > 0.1)
    positions = np.random.default_rng(seed).random((n, 3)) @ cell
    shortest = brute_force_distance(positions, cell, reach=6)
    assume(abs(shortest - 0.5) > 1e-6)
    assert has_overlap(positions, cell, 0.5) == (shortest < 0.5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-4, 4), min_size=3, max_size=3),
    st.integers(0, 1000),
)
def test_another_choice_of_cell_changes_no_verdict(shears, seed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1, 4, 3)) + rng.normal(0, 0.2, (3, 3))
    positions = rng.random((4, 3)) @ cell
    other = np.array([[1, shears[0], shears[1]], [0, 1, shears[2]], [0, 0, 1]]) @ cell
    assert has_overlap(positions, other, 0.5) == has_overlap(positions, cell, 0.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=3), st.integers(0, 1000))
def test_reduction_finds_the_shortest_vectors(shears, seed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1, 4, 3)) + rng.normal(0, 0.2, (3, 3))
    skewed = np.array([[1, shears[0], shears[1]], [0, 1, shears[2]], [0, 0, 1]]) @ cell
    reduced = minkowski_reduced(skewed)
    change = reduced @ np.linalg.inv(cell)
    assert change == pytest.approx(np.round(change), abs=1e-6)  # the same lattice
    assert abs(np.linalg.det(reduced)) == pytest.approx(abs(np.linalg.det(cell)))
    combinations = np.array([c for c in itertools.product(range(-3, 4), repeat=3) if any(c)])
    assert np.linalg.norm(reduced, axis=1).min() == pytest.approx(
        np.linalg.norm(combinations @ reduced, axis=1).min()
    )


@pytest.mark.parametrize("angle_degree", [1.0, 179.0])
def test_extreme_cells_are_judged_at_once(angle_degree):
    cell = cell_matrix(np.array([1000.0, 900.0, 0.6]), np.radians([90, 90, angle_degree]))
    positions = np.random.default_rng(0).random((20, 3)) @ cell
    start = time.perf_counter()
    assert has_overlap(positions, cell, 0.5) == has_overlap(positions, minkowski_reduced(cell), 0.5)
    assert time.perf_counter() - start < 0.5
