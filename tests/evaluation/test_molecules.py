from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from hand_made import molecule
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from adit_scale.atoms import MOLECULE, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.evaluation.bonds import TABLE_FILE, bond_orders, edm_table, stable_atoms
from adit_scale.evaluation.decode import NON_FINITE_COORDINATES, Invalid, to_rdkit
from adit_scale.evaluation.molecules import UNKNOWN_ELEMENT, judge_molecule, score_molecules


@pytest.mark.parametrize(
    ("pair", "distance_pm", "order"),
    [
        # Carbon: single under 154 + 10, double under 134 + 5, triple under 120 + 3.
        ((6, 6), 164.5, 0),
        ((6, 6), 163.5, 1),
        ((6, 6), 139.5, 1),
        ((6, 6), 138.5, 2),
        ((6, 6), 123.5, 2),
        ((6, 6), 122.5, 3),
        ((1, 1), 83.5, 1),  # no double bond is listed for H, however near
        ((1, 1), 10.0, 1),
        ((6, 16), 164.5, 2),  # C=S is listed from carbon only
        ((8, 8), 100.0, 2),  # no triple bond is listed for O
        ((7, 7), 112.5, 3),
        ((26, 8), 150.0, 0),  # iron is not in the table
        ((11, 17), 236.0, 0),
    ],
)
def test_bond_order_of_a_pair(pair, distance_pm, order):
    for numbers in (pair, pair[::-1]):
        orders = bond_orders(np.array(numbers), np.array([[0, 0, 0], [0, 0, distance_pm / 100]]))
        assert orders.tolist() == [[0, order], [order, 0]]


@given(st.lists(st.sampled_from([1, 6, 7, 8, 9, 16, 26]), min_size=1, max_size=8), st.integers(0, 10_000))
def test_orders_are_symmetric_and_follow_the_atoms(numbers, seed):
    rng = np.random.default_rng(seed)
    numbers, positions = np.array(numbers), rng.uniform(0, 3, (len(numbers), 3))
    orders = bond_orders(numbers, positions)
    assert (orders == orders.T).all()
    assert (np.diag(orders) == 0).all()
    shuffled = rng.permutation(len(numbers))
    assert (bond_orders(numbers[shuffled], positions[shuffled]) == orders[shuffled][:, shuffled]).all()


def test_packaged_table_is_the_shared_one(shared):
    packaged = resources.files("adit_scale.evaluation") / TABLE_FILE
    assert packaged.read_bytes() == (shared / "data" / "edm_bond_lengths.json").read_bytes()


def test_valences():
    table = edm_table()
    assert np.flatnonzero(table.allowed[15]).tolist() == [3, 5]
    assert np.flatnonzero(table.allowed[16]).tolist() == [4]
    assert not table.allowed[26].any()
    assert np.flatnonzero(table.known).tolist() == [1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 80, 83]


def test_methane(methane):
    assert bond_orders(methane.numbers, methane.positions).sum() == 8
    verdict = judge_molecule(methane)
    assert (verdict.n_stable, verdict.n_atoms, verdict.n_fragments) == (5, 5, 1)
    assert Chem.CanonSmiles(verdict.smiles) == "C"


def test_benzene_is_valid_but_not_stable(benzene):
    """1.397 Å is just above the limit of a double bond, so the protocol sees carbons of three bonds."""
    orders = bond_orders(benzene.numbers, benzene.positions)
    assert orders[0, 1] == 1
    verdict = judge_molecule(benzene)
    assert (verdict.n_stable, verdict.fault) == (6, None)
    squeezed = molecule(benzene.numbers, benzene.positions * (1.38 / 1.397))
    assert bond_orders(squeezed.numbers, squeezed.positions)[0, 1] == 2
    assert judge_molecule(squeezed).fault == "valence not possible"  # five bonds at every carbon


def test_a_stretched_bond_breaks_the_molecule(methane):
    positions = methane.positions.copy()
    positions[1] *= 1.30 / 1.09
    verdict = judge_molecule(molecule(methane.numbers, positions))
    assert verdict.n_stable == 3  # neither the carbon nor the lone hydrogen
    assert verdict.n_fragments == 2
    assert verdict.smiles == "[H]C([H])[H]"  # valid by the protocol: RDKit fills the free valence
    scores = score_molecules([molecule(methane.numbers, positions), methane])
    assert scores.rates["edm_validity"].successes == 2
    assert scores.rates["edm_valid_and_connected"].successes == 1
    assert scores.rates["edm_molecule_stability"].successes == 1
    assert (scores.rates["edm_atom_stability"].successes, scores.rates["edm_atom_stability"].trials) == (
        8,
        10,
    )


def test_the_largest_fragment_names_the_molecule(methane):
    numbers = np.concatenate([[1, 1], methane.numbers])
    positions = np.vstack([[[9, 0, 0], [9.74, 0, 0]], methane.positions])
    verdict = judge_molecule(molecule(numbers, positions))
    assert verdict.n_fragments == 2
    assert verdict.smiles == judge_molecule(methane).smiles


def test_too_many_bonds_are_counted_under_their_reason(methane):
    crowded = molecule([*methane.numbers, 1], np.vstack([methane.positions, [0, 0, 1.09]]))
    coincident = molecule([6, 6, 6, 6], np.zeros((4, 3)))  # triple bonds all round
    foreign = molecule([26, 8], [[0, 0, 0], [0, 0, 1.6]])
    not_finite = molecule([6, 1], [[0, 0, 0], [np.nan, 0, 0]])
    open_sample = Invalid(MOLECULE, NON_FINITE_COORDINATES, np.array([6, 1, 1]))
    scores = score_molecules([methane, crowded, coincident, foreign, not_finite, open_sample])
    assert scores.reasons["edm_validity"] == {
        "valence not possible": 2,
        NON_FINITE_COORDINATES: 2,
        UNKNOWN_ELEMENT: 1,
    }
    assert scores.valid == (0,)
    assert (scores.rates["edm_validity"].successes, scores.rates["edm_validity"].trials) == (1, 6)
    # Methane's 5 atoms, and the crowded one's 5 hydrogens: its carbon alone has a bond too many.
    assert scores.rates["edm_atom_stability"].successes == 10
    assert scores.rates["edm_atom_stability"].trials == 5 + 6 + 4 + 2 + 2 + 3
    assert scores.rates["edm_molecule_stability"].successes == 1


def test_uniqueness_is_among_valid_molecules(methane):
    moved = molecule(methane.numbers[::-1], methane.positions[::-1] + 3)
    broken = molecule([6, 6, 6, 6], np.zeros((4, 3)))
    rates = score_molecules([methane, moved, broken]).rates
    assert (rates["edm_uniqueness"].successes, rates["edm_uniqueness"].trials) == (1, 2)
    assert (rates["edm_valid_and_unique"].successes, rates["edm_valid_and_unique"].trials) == (1, 3)


def test_to_rdkit_keeps_atoms_bonds_and_positions(methane):
    mol = to_rdkit(methane)
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == [6, 1, 1, 1, 1]
    assert mol.GetNumBonds() == 4
    assert mol.GetConformer().GetPositions() == pytest.approx(methane.positions)


def test_stable_atoms_bounds_large_valences():
    orders = np.full((5, 5), 3)
    np.fill_diagonal(orders, 0)
    assert not stable_atoms(np.full(5, 6), orders).any()


@pytest.mark.real_data
def test_qm9_scores_as_published_for_real_molecules(shared):
    sets = [s for s in read_source(shared / "data" / "qm9_sample.extxyz.gz") if isinstance(s, AtomSet)]
    assert len(sets) == 2000
    scores = score_molecules(sets)
    percent = {name: 100 * rate.value for name, rate in scores.rates.items()}
    assert percent["edm_atom_stability"] == pytest.approx(99.49, abs=0.05)
    assert percent["edm_molecule_stability"] == pytest.approx(96.3, abs=0.05)
    assert percent["edm_validity"] == pytest.approx(98.0, abs=0.05)
    assert percent["edm_uniqueness"] == 100.0
    assert scores.reasons["edm_validity"] == {"valence not possible": 40}
