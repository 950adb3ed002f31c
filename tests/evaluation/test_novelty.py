"""Uniqueness and novelty: which crystals are one structure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hand_made import crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core.structure_matcher import StructureMatcher
from scipy.spatial.transform import Rotation

from adit_scale.atoms import AtomSet
from adit_scale.data.sources import read_source
from adit_scale.errors import DataError
from adit_scale.evaluation.config import CRYSTAL_TOLERANCES, EvaluationConfig
from adit_scale.evaluation.crystals import ReferenceIndex, judge_crystals, reference_index
from adit_scale.evaluation.crystals.components import Components, Matcher, Pairs
from adit_scale.evaluation.crystals.composition import reduced_composition
from adit_scale.evaluation.crystals.grouping import group_crystals
from adit_scale.evaluation.crystals.matching import TOLERANCES, Crystal, matches, may_match
from adit_scale.evaluation.crystals.reduction import ReducedCell, reduce_crystal
from adit_scale.evaluation.decode import to_pymatgen

DEFAULT = TOLERANCES["default"]


@pytest.fixture
def caesium_chloride_type() -> AtomSet:
    """NaCl's composition in another structure."""
    return crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 3.4)


def disguised(original: AtomSet, seed: int = 0) -> AtomSet:
    """The same crystal, rotated, shifted, its atoms in another order, in another cell 2% larger."""
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    order = rng.permutation(len(original))
    shear = np.array([[1, *rng.integers(-2, 3, 2)], [0, 1, rng.integers(-2, 3)], [0, 0, 1]])
    fractional = (original.fractional[order] + rng.random(3)) @ np.linalg.inv(shear) % 1
    return crystal(original.numbers[order], fractional, 1.02 * shear @ original.cell @ turn)


def doubled(original: AtomSet, axis: int) -> AtomSet:
    """The same crystal in a cell of twice the volume."""
    shift = np.eye(3)[axis]
    fractional = np.concatenate([original.fractional, original.fractional + shift]) / (1 + shift)
    return crystal(np.tile(original.numbers, 2), fractional, original.cell * (1 + shift)[:, None])


def reduced(atom_set: AtomSet) -> ReducedCell:
    cell = reduce_crystal(atom_set)
    assert isinstance(cell, ReducedCell)
    return cell


def groups(crystals: Sequence[AtomSet], processes: int = 0) -> list[int]:
    components = Components(len(crystals))
    cells = {i: reduced(atom_set) for i, atom_set in enumerate(crystals)}
    group_crystals(cells, components, Matcher(DEFAULT, 10.0, processes))
    return components.roots()


def novel(samples: Sequence[AtomSet], known: Sequence[AtomSet] | ReferenceIndex) -> list[bool]:
    verdicts = judge_crystals(samples, EvaluationConfig(), known, processes=0)
    return verdicts.checks["novel"].passed.tolist()


def test_groups_see_through_cell_rotation_and_order(rock_salt, rock_salt_primitive, caesium_chloride_type):
    crystals = [rock_salt, caesium_chloride_type, rock_salt_primitive, disguised(rock_salt)]
    assert groups([*crystals, doubled(caesium_chloride_type, 1)]) == [0, 1, 0, 0, 1]


def test_groups_do_not_depend_on_the_order():
    """A chain of structures, each like the next but the ends unlike: one group in any order."""

    def stretched(factor: float) -> AtomSet:
        return crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.diag([3.4, 3.4, 3.4 * factor]))

    chain = [stretched(f) for f in (1.0, 1.22, 1.49)]
    assert groups([chain[0], chain[2]]) == [0, 1]
    for order in itertools.permutations(chain):
        assert groups(order) == [0, 0, 0]
    # The far end of the chain matches no reference itself: its group does.
    assert novel([chain[2]], [chain[0]]) == [True]
    assert novel([chain[2], chain[1]], [chain[0]]) == [False, False]


def test_novelty_is_against_the_references(rock_salt, rock_salt_primitive, caesium_chloride_type):
    potassium = crystal([19] * 4 + [17] * 4, rock_salt.fractional, rock_salt.cell)
    samples = [rock_salt_primitive, caesium_chloride_type, caesium_chloride_type, potassium]
    assert novel(samples, [disguised(rock_salt)]) == [False, True, True, True]
    assert novel(samples, []) == [True] * 4


def test_the_wider_tolerances_find_more():
    """The second cell is 1.27 times as long as the first: over 20%, under 30% when volumes are equal."""
    pair = [crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.diag([3.4, 3.4, 3.4 * f])) for f in (1.0, 1.4)]
    unique = {}
    for name in CRYSTAL_TOLERANCES:
        verdicts = judge_crystals(pair, EvaluationConfig(crystal_tolerances=name), processes=0)
        unique[name] = verdicts.checks["unique"].passed.tolist()
    assert unique == {"default": [True, True], "match_rate": [True, False]}


def test_an_index_is_the_references(tmp_path, rock_salt, caesium_chloride_type):
    path = tmp_path / "known.npz"
    squeezed = crystal(rock_salt.numbers, rock_salt.fractional, rock_salt.cell * 0.1)
    index = reference_index([disguised(rock_salt), squeezed], processes=0)
    assert (len(index.cells), index.n_crystals) == (1, 2)
    index.save(path)
    assert novel([rock_salt, caesium_chloride_type], ReferenceIndex.load(path)) == [False, True]
    empty = reference_index([], processes=0)
    empty.save(path)
    assert novel([rock_salt], ReferenceIndex.load(path)) == [True]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"known\.npz: not an index"):
        ReferenceIndex.load(path)
    np.savez(path, format=np.array(["another"]))
    with pytest.raises(DataError, match=r"known\.npz: not an index"):
        ReferenceIndex.load(path)


def scattered(numbers: Sequence[int], seed: int) -> AtomSet:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(3, 6, 3)) + rng.normal(0, 0.6, (3, 3))
    return crystal(numbers, rng.random((len(numbers), 3)), cell)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([8, 22]), min_size=1, max_size=4),
    st.integers(0, 10_000),
    st.floats(0, 0.5),
    st.sampled_from(CRYSTAL_TOLERANCES),
)
def test_verdict_is_that_of_structure_matcher(numbers, seed, sigma_angstrom, name):
    """Of a crystal and itself disguised, shaken and strained, about the edge of matching."""
    tolerances, rng = TOLERANCES[name], np.random.default_rng(seed)
    first = scattered(numbers, seed)
    other = disguised(first, seed)
    strain = np.eye(3) + rng.normal(0, sigma_angstrom / 4, (3, 3))
    shaken = other.positions + rng.normal(0, sigma_angstrom, (len(other), 3))
    second = AtomSet(other.numbers, shaken @ strain, other.cell @ strain, True, "hand")
    matcher = StructureMatcher(tolerances.ltol, tolerances.stol, tolerances.angle_tol)
    expected = matcher.fit(to_pymatgen(first), to_pymatgen(second))
    a, b = reduced(first), reduced(second)
    assert (len(a) == len(b) and matches(Crystal(a), Crystal(b), tolerances)) == expected
    if expected:
        edges = np.sort(np.linalg.norm(b.cell, axis=1))
        assert may_match(a.minima, edges, tolerances)


def test_comparisons_go_through_processes_and_waves(rock_salt, caesium_chloride_type):
    """Thirty disguises of two structures: of 435 pairs, those within a group are spared but for 28."""
    crystals = [disguised(rock_salt if i % 3 else caesium_chloride_type, i) for i in range(30)]
    cells = {i: reduced(atom_set) for i, atom_set in enumerate(crystals)}
    components, matcher = Components(30), Matcher(DEFAULT, 10.0, 1)
    group_crystals(cells, components, matcher)
    assert components.roots() == [1 if i % 3 else 0 for i in range(30)]
    assert matcher.n_cut == 0
    assert 28 <= matcher.n_compared <= 28 + 10 * 20


def test_a_comparison_over_the_limit_is_no_match_and_counted():
    """Of 120 atoms of one element there are as many ways to lay one crystal over the other."""
    rng = np.random.default_rng(0)
    sites = rng.random((2, 120, 3))
    cells = [reduced(crystal([14] * 120, fractional, np.eye(3) * 13)) for fractional in sites]
    small = [reduced(scattered([8, 22], 1)), reduced(disguised(scattered([8, 22], 1)))]
    pairs = Pairs(np.array([0, 2]), np.array([1, 3]), np.zeros(2))
    components, matcher = Components(4), Matcher(TOLERANCES["match_rate"], 0.05, 1)
    matcher.join([*cells, *small], np.arange(4), pairs, components)
    assert components.roots() == [0, 1, 2, 2]
    assert matcher.n_cut == 1


@pytest.mark.real_data
def test_real_polymorphs_match_as_structure_matcher_says(shared):
    """The crystals of mp20_biternary_val whose composition is not theirs alone, the first twenty formulas."""
    stream = read_source(shared / "data" / "mp20_biternary_val.csv.gz")
    buckets: dict[tuple, list[AtomSet]] = defaultdict(list)
    for atom_set in itertools.islice(stream, 1500):
        if isinstance(atom_set, AtomSet):
            buckets[reduced_composition(atom_set.numbers)].append(atom_set)
    matcher, n_pairs, n_same = StructureMatcher(), 0, 0
    for bucket in [b for b in buckets.values() if len(b) > 1][:20]:
        for first, second in itertools.combinations(bucket, 2):
            expected = matcher.fit(to_pymatgen(first), to_pymatgen(second))
            assert (groups([first, second]) == [0, 0]) == expected
            n_pairs, n_same = n_pairs + 1, n_same + expected
    assert n_pairs >= 20
    assert 0 < n_same < n_pairs
