"""Protocols beside EDM's: RDKit's bonds, GEOM's valences, Open Babel's bonds, PoseBusters."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hand_made import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from molecule_builders import embedded, noisy, tangle
from rdkit import Chem

from adit_scale.atoms import MOLECULE, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.errors import ConfigError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import NON_FINITE_TYPES, Invalid
from adit_scale.evaluation.molecules import judge_molecules
from adit_scale.evaluation.molecules.common import FRAGMENTS, Limits
from adit_scale.evaluation.molecules.determine_bonds import (
    CHARGED,
    MISSING_HYDROGEN,
    NO_CHARGE_ZERO,
    NO_RULE,
    NO_VALENCE,
    TOO_LONG,
    _fault,
    add_rdkit,
    determine_bonds,
    determined_bonds,
    restored,
)
from adit_scale.evaluation.molecules.edm import add_edm
from adit_scale.evaluation.molecules.open_babel import add_adit, adit_fault, perceived
from adit_scale.evaluation.molecules.poses import REASONS, add_posebusters, bust, check_names
from adit_scale.evaluation.molecules.valences import (
    ALLOWED_VALENCES,
    UNKNOWN_ELEMENT,
    UNSTABLE,
    add_geom,
    atom_faults,
)
from adit_scale.evaluation.rates import count_rates
from adit_scale.evaluation.verdicts import FAILED, OVER_TIME, Verdicts

ALL = EvaluationConfig(protocols=["edm", "rdkit", "adit", "posebusters", "geom"], processes=2)


# --- RDKit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "smiles",
    ["C", "c1ccccc1", "C[N+](=O)[O-]", "C[NH2+]CC(=O)[O-]", "CS(C)(=O)=O", "C[S+](C)[O-]", "CN=[N+]=[N-]"],
)
def test_rdkit_finds_the_bonds_of_real_molecules(smiles):
    """Charges that cancel (nitro group, zwitterion, sulfoxide, azide) are permitted."""
    result = determine_bonds(embedded(smiles))
    assert (result.fault, result.smiles) == (None, Chem.CanonSmiles(smiles))


def test_rdkit_says_why_not(methane):
    lone = {
        "carbon": (molecule([6], [[0, 0, 0]]), MISSING_HYDROGEN),
        "iron oxide": (molecule([26, 8], [[0, 0, 0], [0, 0, 1.6]]), NO_RULE),
        "coincident carbons": (molecule([6] * 4, np.zeros((4, 3))), NO_CHARGE_ZERO),
        "far carbons": (molecule([6, 6], [[0, 0, 0], [0, 0, 5e3]]), NO_CHARGE_ZERO),
        "sulfoximine": (embedded("CS(C)=N"), NO_VALENCE),  # no sulfur of three neighbours and order four
        "methyl": (molecule(methane.numbers[:4], methane.positions[:4]), NO_CHARGE_ZERO),
    }
    for name, (sample, reason) in lone.items():
        result = determine_bonds(sample)
        assert (result.fault, result.smiles) == (reason, ""), name
    assert determine_bonds(molecule([54], [[0, 0, 0]])).fault is None
    apart = molecule([*methane.numbers] * 2, np.vstack([methane.positions, methane.positions + 6]))
    result = determine_bonds(apart)
    assert result.fault == FRAGMENTS
    assert result.mol is not None  # PoseBusters still sees it


def test_rdkit_refuses_a_net_charge():
    assert _fault(Chem.AddHs(Chem.MolFromSmiles("C[NH3+]"))) == CHARGED
    assert _fault(Chem.AddHs(Chem.MolFromSmiles("[CH3]"))) == "radical electrons"


def test_molecules_keep_their_positions_to_the_last_bit_between_processes(methane):
    moved = molecule(methane.numbers, methane.positions + 1 / 3)
    mol = restored(determine_bonds(moved).mol)
    assert (mol.GetConformer().GetPositions() == moved.positions).all()


def test_a_search_without_end_is_cut_off():
    """By its number of iterations, on every machine alike, and by the clock where one call takes too long."""
    assert determine_bonds(tangle()).fault == TOO_LONG
    found = Limits(limit_s=0.2, processes=1).map(determine_bonds, [tangle(), embedded("CC")], [None, None])
    assert found[0] == OVER_TIME
    assert found[1].smiles == "CC"


# --- GEOM -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smiles", ["c1ccccc1", "c1ccsc1", "c1ccc2[nH]ccc2c1", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"])
def test_aromatic_atoms_are_stable_by_kekulised_valences(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert any(bond.GetIsAromatic() for bond in mol.GetBonds())
    assert set(atom_faults(mol)) == {None}


def test_valences_out_of_the_table():
    assert ALLOWED_VALENCES["C"] == {-1: (3,), 0: (4,), 1: (3,)}  # no carbon of three bonds without a charge
    methyl = atom_faults(Chem.AddHs(Chem.MolFromSmiles("[CH3]")))
    assert methyl == [UNSTABLE, None, None, None]
    assert atom_faults(Chem.MolFromSmiles("[Xe]")) == [UNKNOWN_ELEMENT]
    assert atom_faults(Chem.AddHs(Chem.MolFromSmiles("C[N+](C)(C)C"))).count(UNSTABLE) == 0
    assert atom_faults(Chem.AddHs(Chem.MolFromSmiles("CS(C)=O"))).count(UNSTABLE) == 1  # written S+ and O-


# --- Open Babel -------------------------------------------------------------------------------------------


def test_open_babel_bonds(methane, benzene):
    pytest.importorskip("openbabel")
    orders, charges = perceived(benzene)
    assert sorted(orders[:6, :6][np.triu_indices(6)].tolist())[-6:] == [1, 1, 1, 2, 2, 2]  # kekulised
    assert charges == [0] * 12
    assert adit_fault(methane) == ""
    assert adit_fault(molecule([6] * 4, np.zeros((4, 3)))) == ""  # no bonds: lone carbons are valid here


def test_a_missing_extra_is_one_line(methane, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for protocol in ("adit", "posebusters"):
        with pytest.raises(
            ConfigError, match=rf"has {protocol}, but .* pip install 'adit-scale\[chemistry\]'"
        ):
            judge_molecules([methane], EvaluationConfig(protocols=[protocol]))


# --- PoseBusters ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poses() -> list[bytes]:
    """Molecules in good shape, and their bonds with spoilt positions."""
    smiles = [
        "c1ccccc1O",
        "C1CCCCC1",
        "CC(=O)[O-].[Na+]",
        "C[N+](=O)[O-]",
        "C=C(C)C(=O)NC",
        "CC(C)(C)C(C)(C)C",
    ]
    found = []
    for text in [*smiles, "O", "C"]:
        atom_set = embedded(text)
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        for scale in (0.0, 0.15, 0.4, 0.8):
            conformer = Chem.Conformer(len(atom_set))
            conformer.SetPositions(noisy(atom_set, scale).positions)
            mol.RemoveAllConformers()
            mol.AddConformer(conformer)
            found.append(mol.ToBinary(int(Chem.PropertyPickleOptions.CoordsAsDouble)))
    overfull = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    overfull.AddConformer(Chem.Conformer(6))
    return [*found, overfull.ToBinary(), Chem.MolFromSmiles("[CH2]").ToBinary()]


@pytest.mark.parametrize(("config", "energy", "every"), [("mol_fast", False, 1), ("mol", True, 9)])
def test_verdicts_are_posebusters_own(poses, config, energy, every):
    posebusters = pytest.importorskip("posebusters")
    buster = posebusters.PoseBusters(config)
    names = check_names(energy)
    chosen = poses[::every]
    ours = np.array([bust(pose, energy) for pose in chosen])
    for name in ("rdkit", "posebusters"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    tables = [buster.bust([restored(pose)]).iloc[0] for pose in chosen]
    assert list(tables[0].index) == names == [name for name in REASONS if name in names]
    theirs = np.array([[table[name] == 1 for name in names] for table in tables])
    assert (ours == theirs).all(), np.argwhere(ours != theirs)
    if not energy:
        spoilt = ("bond_lengths", "bond_angles", "internal_steric_clash", "aromatic_ring_flatness",
                  "double_bond_flatness", "sanitization", "all_atoms_connected", "no_radicals")  # fmt: skip
        for name in spoilt:
            column = ours[:, names.index(name)]
            assert 0 < column.sum() < len(column), name


# --- All of them, in other processes ----------------------------------------------------------------------


def test_every_sample_has_a_verdict_of_every_protocol(methane, benzene):
    pytest.importorskip("openbabel")
    samples = {
        "methane": methane,
        "benzene": benzene,
        "noisy": noisy(benzene, 0.3),
        "apart": molecule([*methane.numbers] * 2, np.vstack([methane.positions, methane.positions + 6])),
        "no types": Invalid(MOLECULE, NON_FINITE_TYPES, np.array([0, 6]), "x"),
        "no atoms": molecule([], np.zeros((0, 3))),
        "one atom": molecule([6], [[0, 0, 0]]),
        "coincident": molecule([6] * 30, np.zeros((30, 3))),
        "not finite": molecule([6, 1], [[0, 0, 0], [0, 0, np.nan]]),
        "too far": molecule([6, 1], [[0, 0, 0], [0, 0, 1e308]]),
        "xenon": molecule([54, 54], [[0, 0, 0], [0, 0, 2]]),
        "oganesson": molecule([118, 1], [[0, 0, 0], [0, 0, 2]]),
        "mask": molecule([0, 1], [[0, 0, 0], [0, 0, 1]]),
        "einsteinium": molecule([99, 8], [[0, 0, 0], [0, 0, 2]]),
        "200 atoms": molecule(*_heap(200, 9.0)),
        "dense": molecule(*_heap(60, 2.0)),
    }  # fmt: skip
    done: list[int] = []
    verdicts = judge_molecules(list(samples.values()), ALL, frozenset(), done.append)
    assert sum(done) == len(samples)
    assert len(verdicts.checks) == 5 + 1 + 1 + 1 + len(check_names(energy=False)) + 1
    for name, check in verdicts.checks.items():
        assert check.asked.all(), name
        assert all(bool(why) == (v == FAILED) for why, v in zip(check.reasons, check.verdict, strict=True)), (
            name
        )
        assert check.protocol, name
        assert len(check.reason_table()) <= 12, name
    passed = {
        name: dict(zip(samples, check.passed.tolist(), strict=True))
        for name, check in verdicts.checks.items()
    }
    for name in ("rdkit_valid", "geom_stable", "posebusters", "adit_valid", "edm_valid"):
        assert passed[name]["methane"], name
        assert passed[name]["benzene"], name
        for sample in ("no types", "no atoms", "not finite", "too far", "oganesson", "mask"):
            assert not passed[name][sample], (name, sample)
    assert [name for name in passed if name.startswith("posebusters") and not passed[name]["apart"]] == [
        "posebusters_all_atoms_connected",
        "posebusters",
    ]
    assert not passed["edm_valid"]["xenon"]
    assert passed["posebusters_mol_pred_loaded"]["one atom"]
    assert not passed["rdkit_valid"]["one atom"]
    assert not passed["rdkit_valid"]["200 atoms"]
    assert verdicts.labels["rdkit_smiles"][:2] == ["C", "c1ccccc1"]
    assert verdicts.values["geom_stable_atoms"][:2].tolist() == [5, 12]
    rates = count_rates(verdicts, ALL)
    assert rates["posebusters_validity"].trials == len(samples)


def _heap(n: int, edge: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.choice([1, 6, 7, 8, 16, 53], n), rng.uniform(0, edge, (n, 3))


@given(
    numbers=st.lists(st.sampled_from([1, 6, 7, 8, 9, 15, 16, 17, 26, 35, 53, 54, 79, 92, 99]), max_size=9),
    edge=st.sampled_from([0.0, 1e-3, 0.5, 1.5, 3.0, 50.0, 1e4, 1e200]),
    spoilt=st.sampled_from([0.0, 0.0, 0.0, np.nan, np.inf]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_heap_of_atoms_crashes_a_protocol(numbers, edge, spoilt, seed):
    """In this process: a crash would end the test run."""
    pytest.importorskip("openbabel")
    positions = np.random.default_rng(seed).uniform(0, 1, (len(numbers), 3)) * edge
    positions[: spoilt != 0] += spoilt
    sample = molecule(np.array(numbers, dtype=int), positions)
    verdicts = Verdicts(MOLECULE, ["x"], np.array([len(numbers)]))
    inline = Limits(limit_s=10.0, processes=0)
    found = determined_bonds([sample], inline)
    add_edm(verdicts, [sample], frozenset(), inline)
    add_rdkit(verdicts, found)
    add_geom(verdicts, found)
    add_posebusters(verdicts, found, False, inline)
    add_adit(verdicts, [sample], inline)
    for name, check in verdicts.checks.items():
        assert (check.reasons[0] == "") == bool(check.passed[0]), name
    if not numbers or spoilt:
        assert not any(check.passed[0] for check in verdicts.checks.values())


@pytest.mark.real_data
def test_real_molecules_pass_and_noise_fails(shared):
    sets = [s for s in read_source(shared / "data" / "qm9_sample.extxyz.gz") if isinstance(s, AtomSet)][::10]
    found = [determine_bonds(s) for s in sets]
    assert np.mean([result.fault is None for result in found]) == pytest.approx(0.944, abs=0.03)
    assert np.mean([determine_bonds(noisy(s, 0.3, i)).fault is None for i, s in enumerate(sets)]) < 0.1
