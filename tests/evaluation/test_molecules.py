"""The EDM protocol: the distance table, stability, validity, uniqueness, novelty."""

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
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import NON_FINITE_COORDINATES, Invalid, to_rdkit
from adit_scale.evaluation.molecules import edm_smiles_of, judge_molecules
from adit_scale.evaluation.molecules.common import BAD_VALENCE, FRAGMENTS, NO_ATOMS, formula
from adit_scale.evaluation.molecules.edm import KNOWN, REPEATED, UNKNOWN_ELEMENT, UNSTABLE, judge_edm
from adit_scale.evaluation.rates import count_rates

EDM = EvaluationConfig(protocols=["edm"])


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
    verdict = judge_edm(methane)
    assert (verdict.n_stable, verdict.n_atoms, verdict.n_fragments) == (5, 5, 1)
    assert Chem.CanonSmiles(verdict.smiles) == "C"


def test_benzene_is_valid_but_not_stable(benzene):
    """1.397 Å is just above the limit of a double bond, so the protocol sees carbons of three bonds."""
    orders = bond_orders(benzene.numbers, benzene.positions)
    assert orders[0, 1] == 1
    verdict = judge_edm(benzene)
    assert (verdict.n_stable, verdict.fault) == (6, None)
    squeezed = molecule(benzene.numbers, benzene.positions * (1.38 / 1.397))
    assert bond_orders(squeezed.numbers, squeezed.positions)[0, 1] == 2
    assert judge_edm(squeezed).fault == BAD_VALENCE  # five bonds at every carbon


def test_a_stretched_bond_breaks_the_molecule(methane):
    positions = methane.positions.copy()
    positions[1] *= 1.30 / 1.09
    stretched = molecule(methane.numbers, positions)
    verdict = judge_edm(stretched)
    assert verdict.n_stable == 3  # neither the carbon nor the lone hydrogen
    assert verdict.n_fragments == 2
    assert verdict.smiles == "[H]C([H])[H]"  # valid by the protocol: RDKit fills the free valence
    verdicts = judge_molecules([stretched, methane], EDM)
    assert verdicts.passed("edm_valid").tolist() == [True, True]
    assert verdicts.passed("edm_connected").tolist() == [False, True]
    assert verdicts.passed("edm_stable").tolist() == [False, True]
    assert verdicts.checks["edm_connected"].reasons == [FRAGMENTS, ""]
    assert verdicts.checks["edm_stable"].reasons == [UNSTABLE, ""]
    assert verdicts.values["edm_stable_atoms"].tolist() == [3, 5]
    assert count_rates(verdicts, EDM)["edm_atom_stability"].value == pytest.approx(8 / 10)


def test_the_largest_fragment_names_the_molecule(methane):
    numbers = np.concatenate([[1, 1], methane.numbers])
    positions = np.vstack([[[9, 0, 0], [9.74, 0, 0]], methane.positions])
    verdict = judge_edm(molecule(numbers, positions))
    assert verdict.n_fragments == 2
    assert verdict.smiles == judge_edm(methane).smiles


def test_too_many_bonds_are_counted_under_their_reason(methane):
    crowded = molecule([*methane.numbers, 1], np.vstack([methane.positions, [0, 0, 1.09]]))
    coincident = molecule([6, 6, 6, 6], np.zeros((4, 3)))  # triple bonds all round
    foreign = molecule([26, 8], [[0, 0, 0], [0, 0, 1.6]])
    not_finite = molecule([6, 1], [[0, 0, 0], [np.nan, 0, 0]])
    open_sample = Invalid(MOLECULE, NON_FINITE_COORDINATES, np.array([6, 1, 1]))
    empty = molecule([], np.zeros((0, 3)))
    verdicts = judge_molecules([methane, crowded, coincident, foreign, not_finite, open_sample, empty], EDM)
    for name in ("edm_valid", "edm_unique"):
        assert verdicts.checks[name].reason_table() == {
            BAD_VALENCE: 2,
            NON_FINITE_COORDINATES: 2,
            UNKNOWN_ELEMENT: 1,
            NO_ATOMS: 1,
        }
    assert np.flatnonzero(verdicts.passed("edm_valid")).tolist() == [0]
    assert verdicts.rate("edm_valid").trials == 7
    # Methane's 5 atoms, and the crowded one's 5 hydrogens: its carbon alone has a bond too many.
    assert verdicts.values["edm_stable_atoms"].tolist() == [5, 5, 0, 0, 0, 0, 0]
    assert verdicts.n_atoms.tolist() == [5, 6, 4, 2, 2, 3, 0]
    assert np.flatnonzero(verdicts.passed("edm_stable")).tolist() == [0]


def test_unique_is_the_first_of_its_smiles_and_novel_is_not_known(methane):
    moved = molecule(methane.numbers[::-1], methane.positions[::-1] + 3)
    broken = molecule([6, 6, 6, 6], np.zeros((4, 3)))
    water = molecule([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    known = frozenset(edm_smiles_of([water, broken], processes=0))
    assert known == {"[H]O[H]"}
    verdicts = judge_molecules([methane, moved, broken, water], EDM, known)
    assert verdicts.checks["edm_unique"].reasons == ["", REPEATED, BAD_VALENCE, ""]
    assert verdicts.checks["edm_novel"].reasons == ["", "", BAD_VALENCE, KNOWN]
    rates = count_rates(verdicts, EDM)
    assert (rates["edm_uniqueness"].successes, rates["edm_uniqueness"].trials) == (2, 3)
    assert (rates["edm_novelty"].successes, rates["edm_novelty"].trials) == (1, 2)
    assert (rates["edm_valid_unique_novel"].successes, rates["edm_valid_unique_novel"].trials) == (1, 4)
    assert "edm_novel" not in judge_molecules([methane], EDM).checks


def test_formula_is_in_hills_order(benzene):
    assert formula(benzene.numbers) == "C6H6"
    assert formula(np.array([17, 1, 6, 35])) == "CHBrCl"
    assert formula(np.array([11, 8, 1])) == "HNaO"
    assert formula(np.array([0, 6])) == ""
    assert formula(np.array([], dtype=int)) == ""


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
    verdicts = judge_molecules(sets, EDM)
    percent = {name: 100 * rate.value for name, rate in count_rates(verdicts, EDM).items()}
    published = {"atom_stability": 99.5, "molecule_stability": 96.3, "validity": 98.0, "uniqueness": 100.0}
    for name, value in published.items():
        assert percent[f"edm_{name}"] == pytest.approx(value, abs=0.05), name
    assert verdicts.checks["edm_valid"].reason_table() == {BAD_VALENCE: 40}
