"""Readers: what they give on good files, and the one clear reason on bad ones."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import AtomSet
from adit_scale.data.sources import Rejected, cdvae_csv, read_source
from adit_scale.data.sources.structures import (
    ELEMENT_SYMBOLS,
    UnusableStructure,
    cell_from_parameters,
    niggli_reduce,
    standardise,
)
from adit_scale.errors import DataError
from tests.data.conftest import crystal, molecule

WATER = "3\nid=water\nO 0.0 0.0 0.1\nH 0.0 0.8 -0.5\nH 0.0 -0.8 -0.5\n"
CIF = """# generated using pymatgen
data_NaCl
_symmetry_space_group_name_H-M   'P 1'
_cell_length_a   3.9
_cell_length_b   4.0
_cell_length_c   4.1
_cell_angle_alpha   60.0
_cell_angle_beta   61.0
_cell_angle_gamma   62.0
_symmetry_Int_Tables_number   1
_chemical_formula_structural   NaCl
_chemical_formula_sum   'Na1 Cl1'
_cell_volume   45.0
_cell_formula_units_Z   1
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_symmetry_multiplicity
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Na  Na0  1  0.00000000  0.10000000  0.20000000  1
  Cl  Cl1  1  0.50000000  -0.40000000  1.70000000  1
"""


def write_csv(path: Path, cifs: list[str], spacegroup: str = "225") -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["material_id", "cif", "spacegroup.number"])
        table.writerows([[f"mp-{i}", cif, spacegroup] for i, cif in enumerate(cifs)])
    return path


def read_text(folder: Path, text: str) -> list[AtomSet | Rejected]:
    path = folder / "some.xyz"
    path.write_text(text)
    return list(read_source(path))


def reasons(items: list[AtomSet | Rejected]) -> list[str]:
    return [item.reason if isinstance(item, Rejected) else "" for item in items]


def periodic_distances(fractional: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Shortest distance of each pair over the 125 nearest images."""
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3)
    difference = fractional[:, None] - fractional[None]
    difference = difference - np.round(difference)
    vectors = (difference[:, :, None] + shifts) @ cell
    return np.linalg.norm(vectors, axis=-1).min(axis=-1)


def test_molecule_is_centred_and_named(tmp_path: Path) -> None:
    (water,) = read_text(tmp_path, WATER)
    assert isinstance(water, AtomSet)
    assert (water.dataset, water.id, water.periodic, water.spacegroup) == ("some", "water", False, 0)
    assert water.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(water.positions.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(water.positions[1] - water.positions[2], [0, 1.6, 0], atol=1e-12)


def test_properties_choose_columns(tmp_path: Path) -> None:
    text = '1\nProperties=charge:R:1:pos:R:3:species:S:1 pbc="F F F"\n0.5 1 2 3 Cl\n'
    (item,) = read_text(tmp_path, text)
    assert isinstance(item, AtomSet)
    assert item.numbers.tolist() == [17]
    assert item.id == "0"


def test_xyz_crystal_becomes_niggli(tmp_path: Path) -> None:
    text = '2\nLattice="4 0 0 4 4 0 0 0 5" pbc="T T T" id=c spacegroup=99\nNa 0 0 0\nCl 2 2 2.5\n'
    (item,) = read_text(tmp_path, text)
    assert isinstance(item, AtomSet)
    assert (item.periodic, item.spacegroup) == (True, 99)
    np.testing.assert_allclose(item.cell, np.diag([4.0, 4.0, 5.0]), atol=1e-12)
    np.testing.assert_allclose(np.sort(item.fractional, axis=0), [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("1\nid=bad\nC nan 0 0\n", "position of atom 0 is [nan, 0.0, 0.0]"),
        ("1\nid=bad\nC inf 0 0\n", "position of atom 0 is [inf, 0.0, 0.0]"),
        ("1\nid=bad\nFm 0 0 0\n", "atomic number 100; expected 1 to 99"),
        ("1\nid=bad\nQq 0 0 0\n", "unknown element 'Qq'"),
        ("1\nid=bad\nC 0 zero 0\n", "could not convert string to float: 'zero'"),
        ("3\nid=bad\nC 0 0 0\nC 1 0 0\n", "3 atoms announced, 2 rows found"),
        ("1\nid=bad\nC 0 0 0\nC 1 0 0\n", "1 atoms announced, more rows found"),
        ("0\nid=bad\n", "no atoms"),
        ("1\nid=bad Properties=species:S:1:pos:R:3\nC 0 0 0 7\n", "atom 0 has 5 columns; expected 4"),
        ("1\nid=bad pbc='T T F'\nC 0 0 0\n", "pbc is"),
        ("1\nid=bad Properties=species:S:1:pos:R:2\nC 0 0\n", "expected species:S:1 (or Z:I:1) and pos:R:3"),
        ("1\nid=bad\n99999999999999999999 0 0 0\n", "unknown element '99999999999999999999'"),
        ('1\nid=bad pbc="T T F"\nC 0 0 0\n', "periodic in 2 of 3 directions"),
        ('1\nid=bad pbc="T T T"\nC 0 0 0\n', "Lattice holds 0 numbers; expected 9"),
        ('1\nid=bad Lattice="1 0 0 2 0 0 0 0 1"\nC 0 0 0\n', "cell volume is 0 cubic angstrom"),
        ('1\nid=bad Lattice="3 0 0 0 3 0 0 0 3" spacegroup=231\nC 0 0 0\n', "spacegroup 231"),
    ],
)
def test_bad_frame_is_left_out_and_reading_goes_on(tmp_path: Path, frame: str, reason: str) -> None:
    first, bad, last = read_text(tmp_path, WATER + frame + WATER)
    assert isinstance(first, AtomSet)
    assert isinstance(last, AtomSet)
    assert isinstance(bad, Rejected)
    assert (bad.source, bad.index, bad.id) == ("some", 1, "bad")
    assert reason in bad.reason


def test_text_without_counts_is_rejected_in_one_line(tmp_path: Path) -> None:
    items = read_text(tmp_path, "hello\nthere\n" + WATER)
    assert reasons(items) == ["expected a number of atoms, found 'hello'", ""]


def test_missing_unknown_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xyz: no such file"):
        list(read_source(tmp_path / "none.xyz"))
    with pytest.raises(DataError, match=r"some\.sdf: unknown kind of file; expected \.xyz"):
        list(read_source(tmp_path / "some.sdf"))
    whole = gzip.compress((WATER * 50).encode())
    (tmp_path / "cut.xyz.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.xyz\.gz: cannot be read to its end"):
        list(read_source(tmp_path / "cut.xyz.gz"))
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column 'cif'; found a, b"):
        list(read_source(tmp_path / "no.csv"))


def test_csv_crystal(tmp_path: Path) -> None:
    (item,) = read_source(write_csv(tmp_path / "salt.csv", [CIF]))
    assert isinstance(item, AtomSet)
    assert (item.dataset, item.id, item.spacegroup, item.periodic) == ("salt", "mp-0", 225, True)
    assert item.numbers.tolist() == [11, 17]
    assert (item.fractional >= 0).all()
    assert (item.fractional < 1).all()
    np.testing.assert_allclose(
        periodic_distances(item.fractional, item.cell),
        periodic_distances(
            np.array([[0, 0.1, 0.2], [0.5, -0.4, 1.7]]), cell_from_parameters([3.9, 4.0, 4.1], [60, 61, 62])
        ),
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (CIF, "nonsense", "unreadable CIF"),
        (CIF, "", "empty CIF"),
        ("  Na  Na0", "  Fm  Fm0", "atomic number 100"),
        ("0.10000000", "nan", "position of atom 0"),
        ("_cell_length_a   3.9", "_cell_length_a   0.0", "cell lengths [0.0, 4.0, 4.1]"),
        ("_cell_angle_alpha   60.0", "_cell_angle_alpha   123.0", "cell volume"),
        ("0.20000000  1\n", "0.20000000  0.5\n", "partial or mixed occupancy"),
    ],
)
def test_bad_cif_is_left_out(tmp_path: Path, old: str, new: str, reason: str) -> None:
    items = list(read_source(write_csv(tmp_path / "salt.csv", [CIF, CIF.replace(old, new), CIF])))
    assert [isinstance(item, Rejected) for item in items] == [False, True, False]
    assert reason in reasons(items)[1]


def test_csv_with_impossible_spacegroup(tmp_path: Path) -> None:
    assert "spacegroup 300" in reasons(list(read_source(write_csv(tmp_path / "a.csv", [CIF], "300"))))[0]
    assert "'Fm-3m'" in reasons(list(read_source(write_csv(tmp_path / "b.csv", [CIF], "Fm-3m"))))[0]


def test_other_forms_of_cif_are_left_to_pymatgen() -> None:
    other = CIF.replace("  1  'x, y, z'\n", "  1  'x, y, z'\n  2  '-x, -y, -z'\n")
    assert cdvae_csv._parse_p1(other) is None
    numbers, cell, fractional = cdvae_csv._parse_any(other)
    assert sorted(numbers.tolist()) == [11, 11, 17, 17]
    assert cell.shape == (3, 3)
    assert fractional.shape == (4, 3)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_never_stops_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Anything cut out or put in anywhere: a structure or a reason for each, never an exception."""
    salt = '2\nLattice="4 0 0 4 4 0 0 0 5" Properties=species:S:1:pos:R:3 id=c\nNa 0 0 0\nCl 2 2 2.5\n'
    name, text = data.draw(st.sampled_from([("a.xyz", WATER + salt + WATER), ("a.csv", CIF)]))
    start = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.sampled_from([0, 0, 1, 2, 10, 40]))
    put_in = data.draw(st.sampled_from(["", "\n", " ", "-", "99999", "nan", "?", "'", ":", "C 1 1\n"]))
    text = text[:start] + put_in + text[start + length :]
    path = tmp_path_factory.getbasetemp() / name
    if name == "a.csv":
        write_csv(path, [text])
    else:
        path.write_text(text)
    items = list(read_source(path))
    assert len(items) >= 1
    assert all(isinstance(item, AtomSet) or item.reason for item in items)


def test_element_table_is_pymatgens() -> None:
    from pymatgen.core import Element

    assert [Element.from_Z(z).symbol for z in range(1, 119)] == list(ELEMENT_SYMBOLS[1:])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_standard_form_keeps_distances(seed: int) -> None:
    original = crystal(np.random.default_rng(seed), 4, "x")
    standard = standardise(original)
    np.testing.assert_allclose(
        periodic_distances(standard.fractional, standard.cell),
        periodic_distances(original.fractional, original.cell),
        atol=1e-5,
    )
    np.testing.assert_allclose(standard.fractional @ standard.cell, standard.positions, atol=1e-9)
    again = standardise(standard)
    np.testing.assert_allclose(again.cell, standard.cell, atol=1e-9)
    assert np.array_equal(np.triu(standard.cell, 1), np.zeros((3, 3)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_standard_form_does_not_mirror(seed: int, left_handed: bool) -> None:
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * 12 + rng.normal(size=(3, 3))
    cell = cell[[1, 0, 2]] if left_handed else cell
    cluster = rng.uniform(-1, 1, size=(4, 3))
    standard = standardise(AtomSet(np.array([1, 2, 3, 4]), cluster, cell, True, "d"))
    difference = standard.fractional[1:] - standard.fractional[0]
    vectors = (difference - np.round(difference)) @ standard.cell
    np.testing.assert_allclose(np.linalg.det(vectors), np.linalg.det(cluster[1:] - cluster[0]), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(2.5, 15), min_size=3, max_size=3),
    st.lists(st.floats(55, 115), min_size=3, max_size=3),
    st.sampled_from([(1, 0, 0), (1, 1, 0), (2, -1, 3), (1, 4, -2)]),
)
def test_niggli_cell_is_pymatgens(lengths: list[float], angles: list[float], skew: tuple[int, ...]) -> None:
    from pymatgen.core import Lattice

    try:
        cell = cell_from_parameters(lengths, angles)
    except UnusableStructure:
        return
    if np.linalg.det(cell) < 0.3 * np.prod(lengths):
        return
    shear = np.array([[1, 0, 0], [skew[0], 1, 0], [skew[1], skew[2], 1]])
    reduced, _ = niggli_reduce(shear @ cell, np.zeros((1, 3)))
    ours, theirs = Lattice(reduced), Lattice(cell).get_niggli_reduced_lattice()
    np.testing.assert_allclose(ours.abc, theirs.abc, atol=1e-4)
    assert ours.volume == pytest.approx(np.linalg.det(cell), rel=1e-9)


def test_nearly_symmetric_cell_does_not_send_the_reduction_in_circles() -> None:
    cell = cell_from_parameters([6.98776710, 6.98777346, 6.98776922], [59.99971212, 59.99978242, 59.99978242])
    reduced, _ = niggli_reduce(cell, np.zeros((1, 3)))
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 6.98777, atol=1e-4)
    assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(cell), rel=1e-9)


def test_one_atom_molecule_sits_at_the_origin() -> None:
    assert standardise(molecule(np.random.default_rng(0), 1, "m")).positions.tolist() == [[0, 0, 0]]


@pytest.mark.real_data
def test_real_molecules(shared: Path) -> None:
    items = list(read_source(shared / "data/qm9_sample.extxyz.gz"))
    assert len(items) == 2000
    assert not any(isinstance(item, Rejected) for item in items)
    assert np.mean([len(item) for item in items]) == pytest.approx(18.2, abs=0.05)
    assert items[0].id == "gdb_1"
    assert items[0].numbers.tolist() == [6, 1, 1, 1, 1]


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mp20_biternary_val", "mpts52_val"])
def test_real_crystals_agree_with_pymatgen(shared: Path, name: str) -> None:
    """Every 400th crystal has the composition, Niggli cell and distances that pymatgen finds."""
    from pymatgen.core import Lattice, Structure

    path = shared / f"data/{name}.csv.gz"
    items = list(read_source(path))
    assert not any(isinstance(item, Rejected) for item in items)
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(items) == len(rows)
    for item, row in list(zip(items, rows, strict=True))[::400]:
        theirs = Structure.from_str(row["cif"], fmt="cif")
        assert item.id == row["material_id"]
        assert item.spacegroup == int(row.get("spacegroup.number", 0))
        assert item.numbers.tolist() == [site.specie.Z for site in theirs]
        reduced = theirs.lattice.get_niggli_reduced_lattice()
        np.testing.assert_allclose(Lattice(item.cell).abc, reduced.abc, atol=1e-3)
        ours = Structure(Lattice(item.cell), item.numbers, item.fractional)
        np.testing.assert_allclose(ours.distance_matrix, theirs.distance_matrix, atol=1e-3)
