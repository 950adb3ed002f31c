from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hand_made import crystal
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.evaluation.crystals import (
    OVERLAP,
    SMALL_VOLUME,
    has_overlap,
    minkowski_reduced,
    score_crystals,
    structural_fault,
)
from adit_scale.evaluation.decode import (
    NON_FINITE_CELL,
    NON_FINITE_COORDINATES,
    OPEN_ANGLES,
    Invalid,
    cell_fault,
    cell_matrix,
)
from adit_scale.evaluation.smact_rules import NOT_NEUTRAL


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
    rates = score_crystals([rock_salt]).rates
    assert [
        rates[name].successes for name in ("structural_validity", "compositional_validity", "validity")
    ] == [
        1,
        1,
        1,
    ]


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


def test_every_sample_stays_in_the_denominator_under_one_reason(rock_salt):
    squeezed = crystal(rock_salt.numbers, rock_salt.fractional, rock_salt.cell * 0.1)
    sodium_chlorine_2 = crystal([11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]], np.eye(3) * 6)
    open_cell = Invalid(CRYSTAL, OPEN_ANGLES, np.array([11, 17]))
    scores = score_crystals([rock_salt, squeezed, sodium_chlorine_2, open_cell])
    counts = {name: (rate.successes, rate.trials) for name, rate in scores.rates.items()}
    assert counts == {"structural_validity": (2, 4), "compositional_validity": (3, 4), "validity": (1, 4)}
    assert scores.reasons == {
        "structural_validity": {OVERLAP: 1, OPEN_ANGLES: 1},
        "compositional_validity": {NOT_NEUTRAL: 1},
        "validity": {OVERLAP: 1, NOT_NEUTRAL: 1, OPEN_ANGLES: 1},
    }
    assert scores.valid == (0,)


@pytest.mark.real_data
def test_mp20_scores_as_measured_with_smact(shared):
    """Compositional validity of real crystals is 88.6% with smact14: the ceiling is not 100%."""
    stream = read_source(shared / "data" / "mp20_biternary_val.csv.gz")
    sets = [s for s in itertools.islice(stream, 500) if isinstance(s, AtomSet)]
    assert len(sets) == 500
    rates = score_crystals(sets).rates
    assert rates["structural_validity"].successes == 500
    assert 100 * rates["compositional_validity"].value == pytest.approx(88.6, abs=0.3)
    assert rates["validity"] == rates["compositional_validity"]
