"""QM9 as published, and the archive around it."""

from __future__ import annotations

import bz2
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Rejected, Source, read_source
from adit_scale.errors import DataError
from tests.data.molecule_files import METHANE, qm9_file, tar_of
from tests.data.test_sources_molecules import WATER, reasons, sets

LIST = "The molecules\n Index  SMILES\n------\n   21  C1CC1  CC=C\n   58  CCO  CCO\n------\n"


def qm9_folder(folder: Path, files: dict[str, bytes], name: str = "dsgdb9nsd.xyz.tar.bz2") -> Path:
    (folder / "uncharacterized.txt").write_text(LIST)
    path = folder / name
    data = tar_of(files)
    path.write_bytes(bz2.compress(data) if name.endswith("bz2") else data)
    return path


def qm9_members(*numbers: int) -> dict[str, bytes]:
    return {f"dsgdb9nsd_{i:06d}.xyz": qm9_file(*METHANE, i) for i in numbers}


def test_qm9_as_published(tmp_path: Path) -> None:
    assert b"*^-" in qm9_file(*METHANE, 1)
    path = qm9_folder(tmp_path, qm9_members(1, 21, 22))
    first, excluded, last = read_source(Source(path, "qm9"))
    assert isinstance(first, AtomSet)
    assert (first.id, first.dataset, first.periodic) == ("gdb_1", "qm9", False)
    assert first.numbers.tolist() == METHANE[0].tolist()
    np.testing.assert_allclose(first.positions, METHANE[1] - METHANE[1].mean(axis=0), atol=1e-9)
    assert excluded == Rejected(
        "qm9", 1, "gdb_21", "uncharacterized: its geometry is not that of its formula (QM9's own list)"
    )
    assert isinstance(last, AtomSet)
    kept = sets(list(read_source(Source(path, "qm9"), DataConfig(qm9_uncharacterized=True))))
    assert [item.id for item in kept] == ["gdb_1", "gdb_21", "gdb_22"]


def test_qm9_needs_its_list(tmp_path: Path) -> None:
    path = qm9_folder(tmp_path, qm9_members(1))
    (tmp_path / "uncharacterized.txt").write_text("nothing\n")
    with pytest.raises(DataError, match=r"uncharacterized\.txt lists 0 molecules; expected 3054"):
        list(read_source(path))
    (tmp_path / "uncharacterized.txt").unlink()
    with pytest.raises(DataError, match=r"adit data fetch qm9.*data\.qm9_uncharacterized=true") as caught:
        list(read_source(path))
    assert str(tmp_path / "uncharacterized.txt") in str(caught.value)
    assert len(list(read_source(path, DataConfig(qm9_uncharacterized=True)))) == 1


def test_qm9_files_on_their_own(tmp_path: Path) -> None:
    (tmp_path / "uncharacterized.txt").write_text(LIST)
    path = tmp_path / "several.xyz"
    path.write_bytes(b"".join(qm9_members(1, 58, 3).values()) + WATER.encode())
    items = list(read_source(path))
    assert [item.id for item in items] == ["gdb_1", "gdb_58", "gdb_3", "water"]
    assert [isinstance(item, Rejected) for item in items] == [False, True, False, False]
    (tmp_path / "uncharacterized.txt").unlink()
    with pytest.raises(DataError, match=r"needs QM9's list"):
        list(read_source(path))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("5\ngdb", "4\ngdb", "4 atoms announced, so 9 lines expected; 10 found"),
        ("gdb 2\t", "gbd 2\t", "line 2 is 'gbd 2"),
        ("gdb 2\t", "gdb 4\t", "the molecule in it is gdb_4"),
        ("1341.307\t", "", "5 atoms but 1 frequencies; expected 9 or 10"),
        ("InChI=", "Inchi:", "expected an InChI"),
        ("\t-0.535689\n", "\n", "atom 0 has 4 columns; expected 5"),
        ("C\t", "Qq\t", "unknown element 'Qq'"),
        ("*^-", "*^^", "could not convert string to float"),
        ("C\t", "C\t\udcff", "not UTF-8 text"),
    ],
)
def test_bad_qm9_file_is_left_out(tmp_path: Path, old: str, new: str, reason: str) -> None:
    files = qm9_members(1, 2, 3)
    text = files["dsgdb9nsd_000002.xyz"].decode()
    assert old in text
    count = -1 if old.startswith("1341") else 1
    files["dsgdb9nsd_000002.xyz"] = text.replace(old, new, count).encode("utf-8", "surrogateescape")
    items = list(read_source(qm9_folder(tmp_path, files)))
    assert [isinstance(item, Rejected) for item in items] == [False, True, False]
    assert reason in reasons(items)[1]


def test_hostile_tars(tmp_path: Path) -> None:
    files = {
        "../../etc/dsgdb9nsd_000001.xyz": qm9_file(*METHANE, 1),
        "/dsgdb9nsd_000002.xyz": b"x",
        **qm9_members(3),
    }
    items = list(read_source(qm9_folder(tmp_path, files)))
    assert ["leads out of its folder" in reason for reason in reasons(items)] == [True, True, False]

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("dsgdb9nsd_000001.xyz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    path = tmp_path / "dsgdb9nsd.xyz.tar"
    path.write_bytes(out.getvalue())
    (item,) = read_source(path)
    assert "is no plain file" in reasons([item])[0]

    bomb = tarfile.TarInfo("dsgdb9nsd_000001.xyz")
    bomb.size = 1 << 40
    path.write_bytes(bomb.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="announces 1099511627776 bytes; expected one molecule"):
        list(read_source(path))
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    path.write_bytes(name.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="a name in the archive takes 8589934592 bytes"):
        list(read_source(path))


def test_tar_of_every_writer_reads_the_same(tmp_path: Path) -> None:
    long = "folder/" * 20
    files = {long + name: data for name, data in qm9_members(1, 2, 3).items()}
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = qm9_folder(tmp_path, {}, "dsgdb9nsd.tar")
        path.write_bytes(tar_of(files, form))
        assert [item.id for item in sets(list(read_source(path)))] == ["gdb_1", "gdb_2", "gdb_3"]


def test_cut_tars_are_refused(tmp_path: Path) -> None:
    """At every block, also between members, where the standard library sees an archive that is whole."""
    path = qm9_folder(tmp_path, qm9_members(1, 2), "dsgdb9nsd.tar")
    whole = path.read_bytes().rstrip(b"\0")
    for stop in range(0, len(whole), 512):
        path.write_bytes(whole[:stop])
        with pytest.raises(DataError, match=r"copy the file again|holds no"):
            list(read_source(path))
