"""SDF and the msgpack of GEOM: what the readers give on good files, and the one clear reason on bad ones."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Rejected, Source, geom, read_source, records_of, sdf
from adit_scale.errors import DataError
from tests.data.molecule_files import METHANE, geom_value, molblock, tar_of
from tests.data.test_sources_molecules import reasons, sets

NUMBERS, POSITIONS = METHANE
CENTRED = POSITIONS - POSITIONS.mean(axis=0)


def write(path: Path, *blocks: str) -> Path:
    path.write_text("".join(f"{block}$$$$\n" for block in blocks))
    return path


@pytest.mark.parametrize("v3000", [False, True])
def test_sdf_names_and_positions(tmp_path: Path, v3000: bool) -> None:
    block = molblock(NUMBERS, POSITIONS, v3000)
    path = write(
        tmp_path / "a.sdf", f"methane{block}", f"{block}> 25 <ID>\nCH-4\n\n>  <charge>\n0\n\n", block
    )
    items = sets(list(read_source(path)))
    assert [item.id for item in items] == ["methane", "CH-4", "2"]
    for item in items:
        assert item.numbers.tolist() == NUMBERS.tolist()
        np.testing.assert_allclose(item.positions, CENTRED, atol=1e-4)  # four decimals


@pytest.mark.parametrize(
    ("v3000", "old", "new", "reason"),
    [
        (False, "  5  4", "  6  4", "6 atoms and 4 bonds announced, 9 rows found"),
        (False, "  5  4", "  4  4", "a row of a bond is"),
        (False, "  5  4", "  5  3", "5 atoms and 3 bonds announced, but then comes"),
        (False, "  5  4", " x5  4", "a count is 'x5'"),
        (False, "V2000", "V1000", "expected it to end in V2000 or V3000"),
        (False, " C ", " R#", "expected x, y, z, element by columns"),
        (False, " C ", " A ", "unknown element 'A'"),
        (False, "   -0.0127", "  -0.0127 1", "the row of atom 0"),
        (False, "   -0.0127", "       nan", "the row of atom 0"),
        (False, "M  END", "M  EN", "no line 'M  END'"),
        (False, "  3D", "  2D", "a drawing in two dimensions"),
        (False, "  4  5  1", "  4  6  1", "a bond from atom 4 to 6 of 5"),
        (False, "  4  5  1", "  2  1  1", "a bond is given twice"),
        (False, "M  END", "M  END\n\nM  END", "two molblocks without $$$$ between them"),
        (True, "COUNTS 5 4", "COUNTS 6 4", "expected a section ATOM of 6 lines"),
        (True, "M  V30 5 H", "M  V30 4 H", "an atom of the V3000 table"),
        (True, "0.008000 0", "x.008000 0", "could not convert string to float: 'x.008000'"),
        (True, "M  V30 END CTAB\n", "", "the table of a V3000 molblock is not whole"),
        (True, "1 4 5", "1 4 7", "a bond from atom 4 to 0 of 5"),
    ],
)
def test_bad_molblock_is_left_out(tmp_path: Path, v3000: bool, old: str, new: str, reason: str) -> None:
    block = "x" + molblock(NUMBERS, POSITIONS, v3000)
    assert old in block
    items = list(read_source(write(tmp_path / "a.sdf", block, block.replace(old, new, 1), block)))
    assert [isinstance(item, Rejected) for item in items] == [False, True, False]
    assert reason in reasons(items)[1]


def test_long_lines_of_v3000_are_joined(tmp_path: Path) -> None:
    block = molblock(NUMBERS, POSITIONS, v3000=True)
    broken = block.replace("M  V30 2 H ", "M  V30 2 H -\nM  V30 ")
    assert broken != block
    (item,) = sets(list(read_source(write(tmp_path / "a.sdf", broken))))
    np.testing.assert_allclose(item.positions, CENTRED, atol=1e-5)


def test_hydrogen_isotopes_are_hydrogen(tmp_path: Path) -> None:
    block = molblock(NUMBERS, POSITIONS, v3000=False).replace(" H  ", " D  ", 1)
    (item,) = sets(list(read_source(write(tmp_path / "a.sdf", block))))
    assert item.numbers.tolist() == NUMBERS.tolist()


def test_sdf_of_qm9_leaves_out_the_uncharacterized(tmp_path: Path) -> None:
    block = molblock(NUMBERS, POSITIONS, v3000=False)
    path = write(tmp_path / "gdb9.sdf", f"gdb_1{block}", f"gdb_21{block}")
    with pytest.raises(DataError, match="needs QM9's list"):
        list(read_source(path))
    (tmp_path / "uncharacterized.txt").write_text("Index\n 21 C C\n")
    items = list(read_source(path))
    assert [item.id for item in items] == ["gdb_1", "gdb_21"]
    assert [isinstance(item, Rejected) for item in items] == [False, True]
    assert len(sets(list(read_source(path, DataConfig(qm9_uncharacterized=True))))) == 2


def test_molecule_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdf, "MAX_RECORD_BYTES", 5000)
    block = "x" + molblock(NUMBERS, POSITIONS, v3000=False)
    items = list(read_source(write(tmp_path / "a.sdf", block, "y\n" * 9999, block)))
    assert [isinstance(item, Rejected) for item in items] == [False, True, False]
    assert "MiB without $$$$" in reasons(items)[1]


def geom_file(path: Path, *batches: dict[str, Any]) -> Path:
    data = b"".join(msgpack.packb(batch) for batch in batches)
    if path.name.endswith(".tar.gz"):
        data = tar_of({"drugs_crude.msgpack": data})
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    "name", ["drugs_crude.msgpack", "drugs_crude.msgpack.gz", "drugs_crude.msgpack.tar.gz"]
)
def test_geom_keeps_the_lowest_conformers(tmp_path: Path, name: str) -> None:
    first = {
        "C": geom_value(NUMBERS, POSITIONS, [-1.0, -3.0, -2.0, -3.0]),
        "[NH4+]": geom_value(*METHANE, [0.5]),
    }
    path = geom_file(tmp_path / name, first, {"C.Cl": geom_value(*METHANE, [1.0])})
    items = sets(list(read_source(Source(path, "geom"), DataConfig(conformers=3))))
    assert [item.id for item in items] == ["C#0", "C#1", "C#2", "[NH4+]#0", "C.Cl#0"]
    assert [item.group for item in items] == ["C", "C", "C", "[NH4+]", "C.Cl"]
    assert {item.dataset for item in items} == {"geom"}
    raw = [item for record in records_of(Source(path, "geom"), DataConfig()) for item in
           geom.FORMAT.parse(record, "geom", DataConfig(conformers=3))]  # fmt: skip
    shifts = [item.positions[0, 0] - POSITIONS[0, 0] for item in raw[:3] if isinstance(item, AtomSet)]
    np.testing.assert_allclose(shifts, [1, 3, 2], atol=1e-12)  # conformer i is moved by i: ties in file order
    np.testing.assert_allclose(items[0].positions, CENTRED, atol=1e-12)


def test_one_large_map_and_empty_batches(tmp_path: Path) -> None:
    many = {f"C{i}": geom_value(*METHANE, [1.0]) for i in range(300)}
    path = geom_file(tmp_path / "a.msgpack", {}, many, {})
    assert [item.id for item in sets(list(read_source(path)))] == [f"C{i}#0" for i in range(300)]


def broken(place: tuple[Any, ...], new: Any) -> dict[str, Any]:
    """A value of two conformers with something else at the place, or nothing where ``new`` is None."""
    value: Any = geom_value(*METHANE, [1.0, 2.0])
    *path, last = place
    inner = value
    for key in path:
        inner = inner[key]
    if new is None:
        del inner[last]
    else:
        inner[last] = new
    return value


@pytest.mark.parametrize(
    ("place", "new", "reason"),
    [
        (("conformers",), [], "no conformers"),
        (("conformers",), 7, "no conformers"),
        (("conformers", 0, "totalenergy"), float("nan"), "totalenergy of a conformer is nan"),
        (("conformers", 0, "totalenergy"), None, "totalenergy of a conformer is None"),
        (("conformers", 0, "xyz"), None, "xyz of a conformer is not rows of four numbers"),
        (("conformers", 0, "xyz", 1, 3), None, "xyz of a conformer is not rows of four numbers"),
        (("conformers", 0, "xyz", 1, 1), "x", "xyz of a conformer holds what is no number"),
        (("conformers", 0, "xyz", 1, 1), True, "xyz of a conformer holds what is no number"),
        (("conformers", 0, "xyz", 1, 0), 6.5, "an atomic number of a conformer is not whole"),
        (("conformers", 0, "xyz", 1, 0), float("nan"), "an atomic number of a conformer is not whole"),
        (("conformers", 0, "xyz", 1, 0), 100.0, "atomic number 100; expected 1 to 99"),
        (("conformers", 0, "xyz", 1, 2), float("inf"), "position of atom 1"),
        (("conformers", 0, "xyz"), [], "no atoms"),
    ],
)
def test_bad_conformer_is_left_out(tmp_path: Path, place: tuple[Any, ...], new: Any, reason: str) -> None:
    good = geom_value(*METHANE, [1.0])
    items = list(
        read_source(geom_file(tmp_path / "a.msgpack", {"C": good, "N": broken(place, new), "O": good}))
    )
    assert isinstance(items[0], AtomSet)
    assert isinstance(items[-1], AtomSet)
    assert reason in "".join(reasons(items))
    kept = [item.id for item in items if isinstance(item, AtomSet)]
    assert kept in (["C#0", "O#0"], ["C#0", "N#1", "O#0"])


def deep(depth: int) -> bytes:
    return b"\x81\xa1C" + b"\x91" * depth + b"\x00"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no molecules"),
        (b"\x81\xa1C", "it ends too early"),
        (msgpack.packb({"C": geom_value(*METHANE, [1.0])})[:-1], "it ends too early"),
        (deep(100_000), "StackError"),
        (b"\x81\xa1C\xdd\xff\xff\xff\xff\x00", "it ends too early"),  # an array of 4 billion
        (b"\x81\xa1C\xdb\xff\xff\xff\xff\x00", "damaged msgpack"),  # a text of 4 GiB
        (b"\x81\xdb\xff\xff\xff\xff\x00", "damaged msgpack"),  # the same as a key
        (b"\xdf\xff\xff\xff\xff\xa1C\x00", "damaged msgpack"),  # a map of 4 billion molecules
        (b"\x81\x01\x00", "expected a SMILES, found '1'"),
        (b"\x81\xa2\xff\xfe\x00", "damaged msgpack"),
        (b"\xc1", "damaged msgpack"),
        (b"not msgpack at all", "damaged msgpack"),
    ],
)
def test_hostile_msgpack_is_one_clear_error(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.msgpack: .*{reason}") as caught:
        list(read_source(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_bombs_are_bounded_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of zeros behind a small file stops at the limit of one record."""
    limit = 1 << 20
    monkeypatch.setattr(geom, "MAX_RECORD_BYTES", limit)
    path = tmp_path / "a.msgpack.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"\x81\xa1C\xdd\xff\xff\xff\xff")
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match="is longer than 1 MiB"):
        list(read_source(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * limit


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    value = geom_value(NUMBERS, POSITIONS, [1.0] * 20)
    peaks = []
    for n in (100, 1000):
        path = geom_file(tmp_path / "a.msgpack", *[{f"C{i}": value for i in range(50)}] * (n // 50))
        tracemalloc.start()
        assert sum(1 for _ in records_of(Source(path, "g"), DataConfig())) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_hostile_tar_around_msgpack(tmp_path: Path) -> None:
    path = tmp_path / "drugs_crude.msgpack.tar"
    path.write_bytes(tar_of({"../drugs_crude.msgpack": b"\x80"}))
    with pytest.raises(DataError, match="leads out of its folder"):
        list(read_source(path))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("drugs_crude.msgpack")
        info.size = 100
        tar.addfile(info, io.BytesIO(b"\x81\xa1C" + bytes(97)))
    path.write_bytes(out.getvalue()[:600])
    with pytest.raises(DataError, match="copy the file again"):
        list(read_source(path))
