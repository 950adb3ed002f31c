"""The demo corpus: its generators, and the shards committed to the repository."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import spglib
from pymatgen.core import Element, Structure
from rdkit import Chem

from adit_scale.atoms import AtomSet
from adit_scale.data import demo
from adit_scale.data.demo import crystals, molecules, radii
from adit_scale.data.demo.__main__ import main
from adit_scale.data.demo.prototypes import Candidate
from adit_scale.data.manifest import SPLITS, Manifest
from adit_scale.data.shards import ShardReader
from adit_scale.evaluation.bonds import bond_orders, edm_table, stable_atoms
from adit_scale.evaluation.crystals.composition import composition_fault, reduced_composition

COMMITTED = Path(__file__).resolve().parents[2] / "shards" / "demo"
PROTOTYPES = {p.name: p for p in crystals.PROTOTYPES}


@pytest.fixture(scope="module")
def committed() -> dict[str, dict[str, AtomSet]]:
    """Every structure of the committed shards, by data set and id."""
    manifest = Manifest.load(COMMITTED)
    corpus: dict[str, dict[str, AtomSet]] = {name: {} for name in manifest.datasets}
    for split in SPLITS:
        reader = ShardReader(manifest, split)
        for atom_set in reader.read_sets(np.arange(len(reader.index))):
            corpus[atom_set.dataset][atom_set.id] = atom_set
    return corpus


@pytest.fixture(scope="module")
def candidates() -> dict[str, dict[str, Candidate]]:
    """Compositions by prototype and id, in the order in which the corpus takes them."""
    return {name: dict(crystals.sensible_candidates(p)) for name, p in PROTOTYPES.items()}


@pytest.fixture(scope="module")
def molecule_sets(committed) -> dict[str, AtomSet]:
    return committed[molecules.DATASET]


@pytest.fixture(scope="module")
def crystal_sets(committed) -> dict[str, AtomSet]:
    return committed[crystals.DATASET]


def assert_same_geometry(found: AtomSet, expected: AtomSet) -> None:
    """Equal atoms in equal order, all pair distances within 0.01 angstrom."""
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    if found.periodic:
        distances = [crystals.pair_distances(s.cell, s.positions) for s in (found, expected)]
        volumes = [abs(np.linalg.det(s.cell)) for s in (found, expected)]
        np.testing.assert_allclose(volumes[0], volumes[1], rtol=1e-3)
    else:
        distances = [np.linalg.norm(s.positions[:, None] - s.positions, axis=-1) for s in (found, expected)]
    np.testing.assert_allclose(distances[0], distances[1], atol=0.01)


def test_the_committed_corpus_has_the_stated_size(molecule_sets, crystal_sets):
    assert len(molecule_sets) == demo.N_MOLECULES
    assert len(crystal_sets) == demo.N_CRYSTALS
    assert sum(f.stat().st_size for f in COMMITTED.iterdir()) < 2_000_000
    assert (COMMITTED / "rejected.jsonl").read_text() == ""
    molecule_sizes = [len(s) for s in molecule_sets.values()]
    assert 7 < np.mean(molecule_sizes) < 8
    assert max(molecule_sizes) <= molecules.MAX_ATOMS
    crystal_sizes = {len(s) for s in crystal_sets.values()}
    assert (min(crystal_sizes), max(crystal_sizes)) == (1, 14)


def test_the_manifest_states_licence_source_and_version():
    manifest = Manifest.load(COMMITTED)
    assert manifest.datasets == [crystals.DATASET, molecules.DATASET]
    for name in manifest.datasets:
        description = manifest.descriptions[name]
        assert description["licence"] == "Apache-2.0"
        assert "adit_scale.data.demo" in description["source"]
        assert description["generator_version"] == demo.GENERATOR_VERSION
        assert min(description["n_sets"].values()) >= 50


def test_molecules_are_the_graphs_of_their_smiles(molecule_sets):
    """The evaluation's distance table finds the bonds that the SMILES states, and every atom stable."""
    for smiles, atom_set in molecule_sets.items():
        assert Chem.CanonSmiles(smiles) == smiles
        orders = bond_orders(atom_set.numbers, atom_set.positions)
        assert stable_atoms(atom_set.numbers, orders).all(), smiles
        mol = Chem.RWMol()
        for number in atom_set.numbers.tolist():
            mol.AddAtom(Chem.Atom(number))
        for i, j in np.argwhere(np.triu(orders)).tolist():
            mol.AddBond(i, j, molecules.BOND_TYPES[orders[i, j]])
        Chem.SanitizeMol(mol)
        flat = Chem.MolFromSmiles(smiles)
        Chem.RemoveStereochemistry(flat)
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.MolToSmiles(flat)


def test_every_stereoisomer_has_its_own_hand(molecule_sets):
    """RDKit reads from the geometry the stereochemistry that the SMILES states."""
    n_stereo = 0
    for smiles, atom_set in molecule_sets.items():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        conformer = Chem.Conformer(len(atom_set))
        conformer.SetPositions(atom_set.positions.astype(float))
        mol.AddConformer(conformer, assignId=True)
        Chem.RemoveStereochemistry(mol)
        Chem.AssignStereochemistryFrom3D(mol)
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == smiles
        n_stereo += any(mark in smiles for mark in "@/")
    assert n_stereo > 400


def test_molecule_distances_keep_clear_of_the_limits(molecule_sets):
    """A shift of 1.9 pm of any one distance changes no bond (2 pm at generation, less rounding)."""
    for smiles, atom_set in molecule_sets.items():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert molecules.bonds_are_clear(mol, atom_set.positions, clearance_pm=1.9), smiles


def test_the_generators_bond_limits_are_those_of_the_evaluation():
    table = edm_table()
    for pair, limits in molecules.BOND_LIMITS_PM.items():
        a, b = (Element(symbol).Z for symbol in pair.split("-"))
        expected = [limit for limit in table.thresholds_pm[:, a, b] if np.isfinite(limit)]
        assert list(limits) == pytest.approx(expected), pair


def test_molecules_hold_nothing_unwanted(molecule_sets):
    patterns = [Chem.MolFromSmarts(s) for s in ("OO", "N~N~N", "*=*=*", "[OH]C=C", "C([OH])[OH]", "[r3]=*")]
    mols = [Chem.MolFromSmiles(s) for s in molecule_sets]
    acids = Chem.MolFromSmarts("C(=O)[OH]")
    for mol in mols:
        assert not any(mol.HasSubstructMatch(p) for p in patterns), Chem.MolToSmiles(mol)
    assert any(mol.HasSubstructMatch(acids) for mol in mols)
    present = {a.GetSymbol() for mol in mols for a in mol.GetAtoms()}
    assert present == {"C", "N", "O", "F", "Cl", "Br", "I"}
    assert {
        "C",
        "N",
        "O",
        "CC",
        "C=C",
        "C#C",
        "CO",
        "CC#N",
        "CC(=O)O",
        "C1CC1",
        "F/C=C/F",
        "F/C=C\\F",
    } <= molecule_sets.keys()


def test_enumeration_finds_every_saturated_hydrocarbon():
    """Alkanes C1 to C6: 1, 1, 1, 2, 3, 5 isomers; whatever their number of atoms."""
    trees = molecules._grow_trees(6)
    alkanes = [sum(set(smiles) <= set("C()") for smiles in level) for level in trees]
    assert alkanes == [1, 1, 1, 2, 3, 5]


def test_fresh_molecules_equal_the_committed_ones(molecule_sets):
    """All up to four heavy atoms and eight atoms, each fortieth of the rest; the former twice, bit by bit."""
    first, again = (
        [s for s in molecules.generate_molecules(10_000, max_heavy_atoms=4) if len(s) <= 8] for _ in range(2)
    )
    assert [s.id for s in first] == [s.id for s in again]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    small = {
        smiles
        for smiles, atom_set in molecule_sets.items()
        if len(atom_set) <= 8 and Chem.MolFromSmiles(smiles).GetNumAtoms() <= 4
    }
    assert {s.id for s in first} == small
    for smiles in sorted(molecule_sets.keys() - small)[::40]:
        fresh = molecules.embed(smiles)
        assert fresh is not None
        first.append(fresh)
    assert len(first) > 150
    for fresh in first:
        assert_same_geometry(fresh, molecule_sets[fresh.id])


def test_fresh_crystals_equal_the_committed_ones(crystal_sets, candidates):
    """The first two compositions of every prototype, each built twice."""
    for name, prototype in PROTOTYPES.items():
        for identity, candidate in list(candidates[name].items())[:2]:
            assert identity.startswith(f"{name}/")
            fresh, again = (crystals.build(prototype, candidate, identity) for _ in range(2))
            np.testing.assert_array_equal(fresh.positions, again.positions)
            np.testing.assert_array_equal(fresh.cell, again.cell)
            assert_same_geometry(fresh, crystal_sets[identity])


def test_space_groups_are_those_of_the_prototypes(crystal_sets):
    """The stated one for every crystal, the one that spglib finds for each eighth."""
    for identity, crystal in crystal_sets.items():
        assert crystal.spacegroup == PROTOTYPES[identity.partition("/")[0]].spacegroup
    for identity in sorted(crystal_sets)[::8]:
        crystal = crystal_sets[identity]
        cell = (crystal.cell.tolist(), crystal.fractional.tolist(), crystal.numbers.tolist())
        found = spglib.get_symmetry_dataset(cell, symprec=0.01)
        assert found is not None
        assert found.number == crystal.spacegroup, identity


def test_crystals_are_reduced_and_nothing_in_them_is_squeezed(crystal_sets):
    for identity, crystal in crystal_sets.items():
        assert crystals.pair_distances(crystal.cell, crystal.positions).min() > 1.49, identity
        assert np.linalg.det(crystal.cell) > 0
        lengths = np.linalg.norm(crystal.cell, axis=1)
        assert (np.diff(lengths) > -1e-3).all(), f"{identity}: a Niggli cell has a <= b <= c"
        assert 0.9 < density_g_per_cm3(crystal) < 23, identity


def density_g_per_cm3(crystal: AtomSet) -> float:
    mass = sum(Element.from_Z(z).atomic_mass for z in crystal.numbers.tolist())
    return 1.66054 * float(mass) / abs(np.linalg.det(crystal.cell))


def test_compositions_make_charge_neutrality_a_real_test(crystal_sets):
    """Nearly all pass SMACT's test of neutrality; atoms drawn one by one fail one time in six."""
    compositions = [reduced_composition(c.numbers) for c in crystal_sets.values()]
    valid = np.mean([composition_fault(c) is None for c in compositions])
    assert valid > 0.98
    elements = Counter(z for composition in compositions for z, _ in composition)
    assert len(elements) >= 60
    atoms = np.concatenate([c.numbers for c in crystal_sets.values()])
    generator = np.random.default_rng(0)
    drawn = [reduced_composition(generator.choice(atoms, len(c))) for c in crystal_sets.values()]
    by_chance = np.mean([composition_fault(c) is None for c in drawn])
    assert by_chance < valid - 0.15


@pytest.mark.parametrize(
    ("identity", "a_angstrom"),
    [
        ("rock_salt/NaCl", 5.64),
        ("rock_salt/MgO", 4.21),
        ("caesium_chloride/CsCl", 4.12),
        ("zinc_blende/ZnS", 5.41),
        ("zinc_blende/GaAs", 5.65),
        ("wurtzite/ZnO", 3.25),
        ("fluorite/CaF2", 5.46),
        ("antifluorite/Li2O", 4.62),
        ("rutile/TiO2", 4.59),
        ("cadmium_iodide/CdI2", 4.24),
        ("rhenium_trioxide/ScF3", 4.01),
        ("lanthanum_sesquioxide/La2O3", 3.94),
        ("perovskite/SrTiO3", 3.905),
        ("antiperovskite/Li3OCl", 3.91),
        ("elpasolite/Cs2NaYCl6", 10.73),
        ("potassium_hexachloroplatinate/Cs2SnCl6", 10.36),
        ("spinel/MgAl2O4", 8.08),
        ("potassium_nickel_fluoride/K2NiF4", 4.01),
        ("sodium_ferrite/NaFeO2", 3.02),
        ("matlockite/BaFCl", 4.39),
        ("calcium_dialuminium_disilicide/CaZn2P2", 4.04),
        ("chalcopyrite/CuInSe2", 5.78),
        ("filled_zinc_blende/LiZnP", 5.77),
        ("half_heusler/TiNiSn", 5.92),
        ("full_heusler/Cu2MnAl", 5.95),
        ("copper_gold_l1_2/Cu3Au", 3.75),
        ("ordered_bcc/AlNi", 2.89),
        ("laves/MgCu2", 7.03),
        ("chromium_silicide/Nb3Sn", 5.29),
        ("face_centred_cubic/Cu", 3.61),
        ("face_centred_cubic/Pb", 4.95),
        ("body_centred_cubic/Fe", 2.87),
        ("body_centred_cubic/W", 3.165),
        ("hexagonal_close_packed/Mg", 3.21),
        ("diamond/Si", 5.43),
    ],
)
def test_lattice_parameters_are_near_the_measured_ones(candidates, identity, a_angstrom):
    """Within 7%: what sums of radii can do. Measured values from Wyckoff's tables and the ICSD."""
    candidate = candidates[identity.partition("/")[0]][identity]
    assert candidate.a == pytest.approx(a_angstrom, rel=0.07)


def test_spinel_has_both_its_bonds(candidates):
    identity = "spinel/MgAl2O4"
    spinel = crystals.build(PROTOTYPES["spinel"], candidates["spinel"][identity], identity)
    structure = Structure(spinel.cell, spinel.numbers.tolist(), spinel.fractional)
    for site, neighbours, bond in ((0, 4, (0.72 + 1.40) * (4 / 6) ** 0.125), (2, 6, 0.535 + 1.40)):
        around = [n.nn_distance for n in structure.get_neighbors(structure[site], bond + 0.2)]
        assert around == pytest.approx([bond] * neighbours, abs=1e-3)


def test_pair_distances_count_an_atoms_own_images():
    cell = np.diag([3.0, 4.0, 5.0])
    found = crystals.pair_distances(cell, np.array([[0.0, 0, 0], [2.0, 0, 0]]))
    np.testing.assert_allclose(found, [[3, 1], [1, 3]])


def test_share_out_is_even_and_complete():
    assert crystals.share_out(10, {"a": 2, "b": 9, "c": 9}) == {"a": 2, "b": 4, "c": 4}
    assert crystals.share_out(100, {"a": 2, "b": 9}) == {"a": 2, "b": 9}
    assert sum(crystals.share_out(7, {"a": 5, "b": 5}).values()) == 7


def test_radii_are_the_published_ones():
    """Against pymatgen's copy of Shannon's table and of the metallic radii, wherever these have a value."""
    compared = 0
    for sign, table in ((1, radii.CATIONS), (-1, radii.ANIONS)):
        for charge, ions in table.items():
            for symbol, radius in ions.items():
                published = Element(symbol).data["Shannon radii"].get(str(sign * charge), {}).get("VI", {})
                compared += bool(published)
                assert not published or radius in [entry["ionic_radius"] for entry in published.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each radius it lacks
        for symbol, radius in radii.METALS.items():
            assert Element(symbol).metallic_radius in (None, radius)
    assert compared == sum(map(len, radii.CATIONS.values())) + 8  # the halides and chalcogenides


def test_the_command_refuses_a_folder_in_use(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("keep me")
    assert main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"error: {tmp_path}: ")
    assert (tmp_path / "notes.txt").read_text() == "keep me"


@pytest.mark.slow
def test_a_full_rebuild_equals_the_committed_corpus(committed):
    fresh = list(demo.generate())
    assert {(s.dataset, s.id) for s in fresh} == {(name, i) for name in committed for i in committed[name]}
    for atom_set in fresh:
        assert_same_geometry(atom_set, committed[atom_set.dataset][atom_set.id])
