"""The reader of xyz: what it gives on good files, and the one clear reason on bad ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import AtomSet
from adit_scale.data.sources import Rejected, read_source, source
from adit_scale.data.sources.structures import standardise
from adit_scale.errors import DataError
from tests.data.conftest import molecule
from tests.data.molecule_files import SALT

WATER = "3\nid=water\nO 0.0 0.0 0.1\nH 0.0 0.8 -0.5\nH 0.0 -0.8 -0.5\n"


def read_text(folder: Path, text: str, name: str = "some.xyz") -> list[AtomSet | Rejected]:
    path = folder / name
    path.write_text(text, newline="")
    return list(read_source(path))


def reasons(items: list[AtomSet | Rejected]) -> list[str]:
    return [item.reason if isinstance(item, Rejected) else "" for item in items]


def sets(items: list[AtomSet | Rejected]) -> list[AtomSet]:
    assert all(isinstance(item, AtomSet) for item in items), reasons(items)
    return [item for item in items if isinstance(item, AtomSet)]


def test_molecule_is_centred_and_named(tmp_path: Path) -> None:
    (water,) = sets(read_text(tmp_path, WATER))
    assert (water.dataset, water.id, water.periodic, water.spacegroup) == ("some", "water", False, 0)
    assert water.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(water.positions.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(water.positions[1] - water.positions[2], [0, 1.6, 0], atol=1e-12)


def test_properties_choose_columns(tmp_path: Path) -> None:
    text = '1\nProperties=charge:R:1:pos:R:3:species:S:1 pbc="F F F"\n0.5 1 2 3 Cl\n'
    (item,) = sets(read_text(tmp_path, text))
    assert item.numbers.tolist() == [17]
    assert item.id == "0"


def test_xyz_crystal_becomes_niggli(tmp_path: Path) -> None:
    text = '2\nLattice="4 0 0 4 4 0 0 0 5" pbc="T T T" id=c spacegroup=99\nNa 0 0 0\nCl 2 2 2.5\n'
    (item,) = sets(read_text(tmp_path, text))
    assert (item.periodic, item.spacegroup) == (True, 99)
    np.testing.assert_allclose(item.cell, np.diag([4.0, 4.0, 5.0]), atol=1e-12)
    np.testing.assert_allclose(np.sort(item.fractional, axis=0), [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("1\nid=bad\nC nan 0 0\n", "position of atom 0 is [nan, 0.0, 0.0]"),
        ("1\nid=bad\nC inf 0 0\n", "position of atom 0 is [inf, 0.0, 0.0]"),
        ("2\nid=bad\nC 0 0 0\nH 0.0 0 -0\n", "two atoms stand at the same place"),
        ("1\nid=bad\nC 1e300 0 0\n", "position of atom 0 is [1e+300, 0.0, 0.0]"),
        ("1\nid=bad\nFm 0 0 0\n", "atomic number 100; expected 1 to 99"),
        ("1\nid=bad\nQq 0 0 0\n", "unknown element 'Qq'"),
        ("1\nid=bad\nC 0 zero 0\n", "could not convert string to float: 'zero'"),
        ("1\nid=bad\nC 0 1_0 0\n", "could not convert string to float: '1_0'"),
        ("3\nid=bad\nC 0 0 0\nC 1 0 0\n", "3 atoms announced, 2 rows found"),
        ("1\nid=bad\nC 0 0 0\nC 1 0 0\n", "1 atoms announced, more rows found"),
        ("0\nid=bad\n", "no atoms"),
        ("1\nid=bad Properties=species:S:1:pos:R:3\nC 0 0 0 7\n", "atom 0 has 5 columns; expected 4"),
        ("1\nid=bad Properties=species:S:1:pos:R:3:q:R:1\nC 0 0 0 x\n", "could not convert string to float"),
        ("1\nid=bad pbc='T T F'\nC 0 0 0\n", "periodic in 2 of 3 directions"),
        ("1\nid=bad pbc=T\nC 0 0 0\n", "pbc is 'T'; expected three of T and F"),
        ('1\nid=bad pbc="T T T\nC 0 0 0\n', "comment line is not key=value pairs at"),
        ('1\nid=bad pbc="F F F" pbc="F F F"\nC 0 0 0\n', "comment line gives pbc twice"),
        ("1\nid=bad Properties=species:S:1:pos:R:2\nC 0 0\n", "expected species:S:1 (or Z:I:1) and pos:R:3"),
        ("1\nid=bad\n99999999999999999999 0 0 0\n", "unknown element '99999999999999999999'"),
        ("1\nid=bad\nC 0 0\r 0\n", "holds a lone carriage return"),
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


def test_windows_line_ends_and_compression_change_nothing(tmp_path: Path) -> None:
    text = (WATER + SALT) * 3
    plain = sets(read_text(tmp_path, text))
    data = text.replace("\n", "\r\n").encode()
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        path = tmp_path / f"some.xyz{ending}"
        path.write_bytes(pack(data))
        packed = sets(list(read_source(path)))
        assert [item.id for item in packed] == [item.id for item in plain]
        assert all(np.array_equal(a.positions, b.positions) for a, b in zip(packed, plain, strict=True))


def test_endless_frames_and_lines_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adit_scale.data.sources import extxyz

    monkeypatch.setattr(extxyz, "MAX_RECORD_BYTES", 10_000)
    items = read_text(tmp_path, "999999\nid=endless\n" + "C 0 0 0\n" * 1000 + WATER)
    assert reasons(items)[0].startswith("999999 atoms announced, and more than")
    assert isinstance(items[1], AtomSet)
    monkeypatch.setattr(source, "MAX_RECORD_BYTES", 1000)
    with pytest.raises(DataError, match=r"some\.xyz: line 2 is longer than"):
        read_text(tmp_path, "1\n" + "x" * 2000 + "\nC 0 0 0\n")


def test_missing_unknown_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xyz: no such file"):
        list(read_source(tmp_path / "none.xyz"))
    with pytest.raises(DataError, match=r"some\.mol2: unknown kind of file; expected \.xyz"):
        list(read_source(tmp_path / "some.mol2"))
    whole = gzip.compress((WATER * 50).encode())
    (tmp_path / "cut.xyz.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.xyz\.gz: cannot be read to its end"):
        list(read_source(tmp_path / "cut.xyz.gz"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_text_never_stops_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Anything cut out or put in anywhere: a structure or a reason for each, never an exception."""
    text = WATER + SALT + WATER
    start = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.sampled_from([0, 0, 1, 2, 10, 40]))
    put_in = data.draw(st.sampled_from(["", "\n", " ", "-", "99999", "nan", "?", "'", ":", "C 1 1\n"]))
    items = read_text(tmp_path_factory.getbasetemp(), text[:start] + put_in + text[start + length :])
    assert len(items) >= 1
    assert all(isinstance(item, AtomSet) or item.reason for item in items)


def test_one_atom_molecule_sits_at_the_origin() -> None:
    assert standardise(molecule(np.random.default_rng(0), 1, "m")).positions.tolist() == [[0, 0, 0]]


@pytest.mark.real_data
def test_real_molecules(shared: Path) -> None:
    items = sets(list(read_source(shared / "data/qm9_sample.extxyz.gz")))
    assert len(items) == 2000
    assert np.mean([len(item) for item in items]) == pytest.approx(18.2, abs=0.05)
    assert items[0].id == "gdb_1"
    assert items[0].numbers.tolist() == [6, 1, 1, 1, 1]
