"""Folders and archives of structure files, and the standard form of crystals."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Rejected, archive, read_source
from adit_scale.data.sources.source import UnusableStructure
from adit_scale.data.sources.structures import (
    ELEMENT_SYMBOLS,
    cell_from_parameters,
    niggli_reduce,
    standardise,
)
from adit_scale.data.sources.symmetry import find_spacegroup
from adit_scale.errors import DataError
from tests.data.conftest import crystal, molecule
from tests.data.crystal_files import json_text, p1_cif, poscar, structures, symmetric_cif, zipped

SALT, QUARTZ, LOW, ONE = structures()
STATED = DataConfig(spacegroups="stated")
WATER = "3\nid=water\nO 0.0 0.0 0.1\nH 0.0 0.8 -0.5\nH 0.0 -0.8 -0.5\n"
Items = list[AtomSet | Rejected]


def read(path: Path) -> Items:
    return list(read_source(path, STATED))


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def tarred(members: dict[str, bytes], mode: str = "w", kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data) if kind == tarfile.REGTYPE else 0
            member.type, member.linkname = kind, "" if kind == tarfile.REGTYPE else "/etc/passwd"
            file.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def outcome(items: Items) -> dict[str, str]:
    """The reason by id, "" for what is taken."""
    return {item.id: item.reason if isinstance(item, Rejected) else "" for item in items}


MEMBERS = {
    "relaxed/qmof-0a.cif": p1_cif(LOW).encode(),
    "relaxed/qmof-0b.cif": symmetric_cif(QUARTZ).encode(),
    "relaxed/run/POSCAR": poscar(LOW).encode(),
    "two.xyz": (WATER + WATER.replace("id=water", "")).encode(),
    "list.json.bz2": bz2.compress(f"[{json_text(ONE)}, {json_text(LOW)}]".encode()),
    "README.md": b"hello",
    ".DS_Store": b"\0",
    "__MACOSX/relaxed/._qmof-0a.cif": b"\0\5\26\7",
}
WANTED = {"qmof-0a", "qmof-0b", "run", "water", "two-1", "list-0", "list-1"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "folder"])
def test_members_are_read_by_their_endings(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    if name == "folder":
        for member, data in MEMBERS.items():
            write(path / member, data)
    else:
        write(path, zipped(MEMBERS) if name == "a.zip" else tarred(MEMBERS, mode))
    items = read(path)
    assert outcome(items) == dict.fromkeys(WANTED, "")
    sizes = {item.id: len(item) for item in items if isinstance(item, AtomSet)}
    assert sizes == {"qmof-0a": 4, "qmof-0b": 9, "run": 4, "water": 3, "two-1": 3, "list-0": 1, "list-1": 4}
    assert {item.dataset for item in items if isinstance(item, AtomSet)} == {
        "a" if name != "folder" else "folder"
    }


def test_names_that_repeat_take_their_path(tmp_path: Path) -> None:
    for member in ("a/x.cif", "b/x.cif", "b/x.vasp"):
        write(tmp_path / "f" / member, poscar(ONE) if member.endswith("vasp") else p1_cif(ONE))
    assert list(outcome(read(tmp_path / "f"))) == ["x", "b/x", "b/x#2"]


@pytest.mark.parametrize("wrap", [zipped, tarred])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../evil.cif", "leads out of its folder"),
        ("/etc/evil.cif", "leads out of its folder"),
        ("a/..\\..\\evil.cif", "leads out of its folder"),
        ("C:\\evil.cif", "leads out of its folder"),
        ("inner.zip", "an archive in an archive; unpack it"),
        ("inner.tar.gz", "an archive in an archive; unpack it"),
        ("empty.cif", "no data_ block"),
        ("empty.xyz", "holds no structure"),
        ("bad.cif.gz", "is unreadable"),
    ],
)
def test_bad_members_are_named_and_the_others_go_on(tmp_path: Path, wrap, name: str, reason: str) -> None:
    data = b"\n" if "empty" in name else p1_cif(LOW).encode()
    path = write(
        tmp_path / ("a.zip" if wrap is zipped else "a.tar"), wrap({name: data, "x.cif": p1_cif(ONE).encode()})
    )
    before = sorted(tmp_path.parent.rglob("*"))
    bad, good = read(path)
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert isinstance(good, AtomSet)
    assert (good.id, len(good)) == ("x", 1)
    assert sorted(tmp_path.parent.rglob("*")) == before  # nothing was written


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    path = write(tmp_path / "a.tar", tarred({"x.cif": b""}, kind=kind))
    assert "is no plain file" in outcome(read(path))["x"]


def test_links_in_folders_and_zips(tmp_path: Path) -> None:
    write(tmp_path / "real/one.cif", p1_cif(ONE))
    (tmp_path / "real/link.cif").symlink_to("/etc/passwd")
    (tmp_path / "real/again").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "real/pipe.cif")
    found = outcome(read(tmp_path / "real"))
    assert found.pop("one") == ""
    assert all(reason.endswith("is a link or no plain file") for reason in found.values())
    assert set(found) == {"link", "again", "pipe"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("x.cif")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    assert "is a link" in outcome(read(tmp_path / "a.zip"))["x"]


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blanks = b" " * (8 << 20)
    path = write(tmp_path / "a.zip", zipped({"bomb.cif": blanks, "one.cif": p1_cif(ONE).encode()}))
    found = outcome(read(path))
    assert "-fold; expected 200-fold at most" in found["bomb"]
    assert found["one"] == ""
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 1 << 20)
    members = {
        "bomb.cif.gz": gzip.compress(blanks),
        "large.cif": os.urandom(2 << 20),
        "one.cif": p1_cif(ONE).encode(),
    }
    for name, data in (("b.zip", zipped(members)), ("b.tar", tarred(members))):
        found = outcome(read(write(tmp_path / name, data)))
        assert "larger than 1 MiB when decompressed" in found["bomb"]
        assert "holds 2 MiB; expected 1 at most" in found["large"]
        assert found["one"] == ""


def test_large_members_of_many_records_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 1000)
    members = {
        "many.xyz": WATER.replace("id=water", "").encode() * 100,
        "one.cif": p1_cif(ONE).encode()[:900],
    }
    for name, data in (("a.zip", zipped(members)), ("a.tar", tarred(members))):
        found = outcome(read(write(tmp_path / name, data)))
        assert [found[f"many-{i}"] for i in range(100)] == [""] * 100


def test_damage_within_a_zip_costs_one_member(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:  # stored, so that the damage is known to hit the contents
        for name, structure in (("low.cif", LOW), ("one.cif", ONE)):
            file.writestr(name, p1_cif(structure))
    data = stream.getvalue().replace(b"0.01000000", b"0.04000000", 1)
    found = outcome(read(write(tmp_path / "a.zip", data)))
    assert "Bad CRC-32" in found["low"]
    assert found["one"] == ""


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", b"PK\3\4 no archive", "not a whole zip archive"),
        ("a.zip", zipped({"README": b"x"}), "holds no structure file"),
        ("a.tar", tarred({"README": b"x"}), "holds no structure file"),
        ("a.tar", tarred({"x.cif": p1_cif(LOW).encode()})[:1500], "cut|ends|without"),
        ("a.tar.gz", tarred({"x.cif": p1_cif(LOW).encode()}, "w:gz")[:300], "cut|ends|ended|without"),
    ],
)
def test_unusable_archives(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: .*({reason})"):
        read(write(tmp_path / name, data))


def test_missing_unknown_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.cif: no such file"):
        read(tmp_path / "none.cif")
    with pytest.raises(DataError, match=r"some\.doc: unknown kind of file; expected \.xyz"):
        read(write(tmp_path / "some.doc", "x"))
    for name, packed in (
        ("a.cif.gz", gzip.compress),
        ("a.cif.bz2", bz2.compress),
        ("a.cif.xz", lzma.compress),
    ):
        whole = packed(p1_cif(LOW).encode())
        assert len(read(write(tmp_path / name, whole))) == 1
        with pytest.raises(DataError, match=rf"{name}: cannot be read to its end"):
            read(write(tmp_path / name, whole[: len(whole) // 2]))


def test_element_table_is_pymatgens() -> None:
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


def periodic_distances(fractional: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Shortest distance of each pair over the 125 nearest images."""
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3)
    difference = fractional[:, None] - fractional[None]
    difference = difference - np.round(difference)
    vectors = (difference[:, :, None] + shifts) @ cell
    return np.linalg.norm(vectors, axis=-1).min(axis=-1)


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


@pytest.mark.parametrize("n", [3, 200])
def test_atoms_at_one_place(n: int) -> None:
    """Across the cell's edge too, in small crystals and in large ones."""
    item = crystal(np.random.default_rng(1), n, "x")
    fractional = item.fractional.copy()
    fractional[0], fractional[n - 1] = [1e-6, 0.5, 0.25], [1 - 1e-6, 0.5, 0.25]
    with pytest.raises(UnusableStructure, match=f"atoms 0 and {n - 1} are at one place"):
        standardise(AtomSet(item.numbers, fractional @ item.cell, item.cell, True, "d"))


def test_spacegroups() -> None:
    for structure, number in zip(structures(), (225, 152, 1, 191), strict=True):
        numbers = np.array([site.specie.Z for site in structure])
        item = standardise(AtomSet(numbers, structure.cart_coords, structure.lattice.matrix, True, "d"))
        assert find_spacegroup(item, 1e-3) == number
    jittered = AtomSet(numbers, item.positions, item.cell + np.diag([0.02, 0, 0]), True, "d")
    assert (find_spacegroup(jittered, 0.1), find_spacegroup(jittered, 1e-3)) == (191, 10)
    assert find_spacegroup(item, 1e3) == 0


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mp20_biternary_val", "mpts52_val"])
def test_real_crystals_agree_with_pymatgen(shared: Path, name: str) -> None:
    """Every 400th crystal has the composition, Niggli cell and distances that pymatgen finds."""
    path = shared / f"data/{name}.csv.gz"
    items = read(path)
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
    if name == "mp20_biternary_val":  # as the Materials Project states it, at its tolerance
        some = [item for item in items[::300] if isinstance(item, AtomSet)]
        assert np.mean([find_spacegroup(item, 0.1) == item.spacegroup for item in some]) > 0.9


def test_a_zip_member_without_a_name_costs_only_itself(tmp_path: Path) -> None:
    """zipfile cuts a name at its first zero byte, and asks for the last character of what is left."""
    data = zipped({"0.cif": p1_cif(LOW).encode(), "good.cif": p1_cif(LOW).encode()})
    items = read(write(tmp_path / "a.zip", data.replace(b"0.cif", b"\0.cif")))
    assert outcome(items)["good"] == ""
