"""Crystal readers: what they give on good files, and the one clear reason on bad ones."""

from __future__ import annotations

import csv
import gzip
import sqlite3
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Lattice, Structure

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Rejected, cif, read_source
from adit_scale.data.sources.source import UnusableStructure
from adit_scale.errors import DataError
from tests.data.crystal_files import (
    p1_cif,
    poscar,
    read_cif,
    same,
    structures,
    symmetric_cif,
    write_ase_db,
)

SALT, QUARTZ, LOW, ONE = structures()
STATED = DataConfig(spacegroups="stated")
Items = list[AtomSet | Rejected]


def read(path: Path, config: DataConfig = STATED) -> Items:
    return list(read_source(path, config))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def reasons(items: Items) -> list[str]:
    return [item.reason if isinstance(item, Rejected) else "" for item in items]


def ids(items: Items) -> list[str]:
    return [item.id for item in items]


def is_niggli_of(item: AtomSet | Rejected, structure: Structure) -> bool:
    """The same crystal in standard form, by pymatgen's own reduction and pair distances."""
    assert isinstance(item, AtomSet), item
    reduced = structure.lattice.get_niggli_reduced_lattice()
    ours = Structure(Lattice(item.cell), item.numbers, item.fractional)
    assert sorted(item.numbers) == sorted(site.specie.Z for site in structure)
    np.testing.assert_allclose(Lattice(item.cell).abc, reduced.abc, atol=1e-3)
    found, expected = (np.sort(s.distance_matrix.ravel()) for s in (ours, structure))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    return True


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


class TestCsv:
    # Columns as published; CDVAE's README and files.
    @pytest.mark.parametrize(
        ("header", "before", "after", "name", "spacegroup"),
        [
            (["", "material_id", "band_gap", "elements", "cif", "spacegroup.number"],
             ["7", "mp-7", "0.1", "['Si', 'O']"], ["152"], "mp-7", 152),
            (["", "material_id", "theoretical", "year", "cif"],
             ["7", "mp-7", "False", "1997"], [], "mp-7", 0),
            (["", "formula", "heat_all", "dir_gap", "cif", "material_id"],
             ["3", "SiO2", "1.2", "0"], ["3333"], "3333", 0),
            (["", "energy_per_atom", "material_id", "cif"], ["0", "-154.2", "C-92-8-1"], [], "C-92-8-1", 0),
            (["cif"], [], [], "0", 0),
        ],
        ids=["mp20", "mpts52", "perov5", "carbon24", "bare"],
    )  # fmt: skip
    def test_published_columns(
        self,
        tmp_path: Path,
        header: list[str],
        before: list[str],
        after: list[str],
        name: str,
        spacegroup: int,
    ) -> None:
        path = write_csv(tmp_path / "train.csv", header, [[*before, p1_cif(QUARTZ), *after]])
        (item,) = read(path)
        assert is_niggli_of(item, QUARTZ)
        assert (item.id, item.spacegroup, item.dataset, item.periodic) == (name, spacegroup, "train", True)
        (found,) = read(path, DataConfig(spacegroups="found", symprec_angstrom=1e-3))
        assert found.spacegroup == 152

    def test_bad_rows_are_left_out(self, tmp_path: Path) -> None:
        good = p1_cif(LOW)
        rows = [[good, "2"], [good], [good, "Fm-3m"], [good, "300"], ["", "1"], [good, "2.5"], [good, ""]]
        items = read(write_csv(tmp_path / "a.csv", ["cif", "spacegroup.number"], rows))
        expected = ["", "row of 1 columns", "'Fm-3m'", "spacegroup 300", "empty CIF", "'2.5'", ""]
        assert len(items) == len(expected)
        assert all(want in found for want, found in zip(expected, reasons(items), strict=True))
        assert ids(items) == [str(i) for i in range(7)]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"a,b\n1,2\n", "no column 'cif'; found a, b"),
            (b"", "no column 'cif'; found nothing"),
            (b"cif\n", "no rows below the header"),
            (b'cif\n"data_', "is not CSV"),
            (b"cif\n\xff\xfe\n", r"line 2 is not UTF-8 text \(byte 0xff\)"),
        ],
    )
    def test_unusable_files(self, tmp_path: Path, data: bytes, reason: str) -> None:
        with pytest.raises(DataError, match=rf"a\.csv: .*{reason}"):
            read(write(tmp_path / "a.csv", data))


class TestCif:
    @pytest.mark.parametrize("structure", structures(), ids=["salt", "quartz", "low", "one"])
    def test_both_forms_are_pymatgens(self, tmp_path: Path, structure: Structure) -> None:
        for text in (p1_cif(structure), symmetric_cif(structure)):
            block = cif.parse_block(text)
            item = AtomSet(block.numbers, block.fractional @ block.cell, block.cell, True, "d")
            assert same(item, read_cif(text)[0], 1e-6)
            (found,) = read(write(tmp_path / "a.cif", text))
            assert is_niggli_of(found, structure)

    def test_fast_and_general_path_agree(self) -> None:
        text = p1_cif(LOW)
        assert cif._parse_p1(text) is not None
        other = text.replace("_cell_volume", "_cell_measurement_temperature 293(2)\n_cell_volume")
        assert cif._parse_p1(other) is None
        for fast, general in zip(cif.parse_block(text)[:3], cif.parse_block(other)[:3], strict=True):
            np.testing.assert_allclose(fast, general, atol=1e-12)

    def test_stated_spacegroup(self, tmp_path: Path) -> None:
        text = symmetric_cif(QUARTZ)
        assert cif.parse_block(text).spacegroup == 152
        by_symbol = text.replace("_symmetry_Int_Tables_number", "_some_other_number")
        assert cif.parse_block(by_symbol).spacegroup == 152
        assert cif.parse_block(p1_cif(QUARTZ)).spacegroup == 0

    def test_operations_from_the_symbol(self) -> None:
        text = symmetric_cif(QUARTZ)
        start, stop = text.index("loop_\n _symmetry_equiv"), text.index("loop_\n _atom_site")
        assert len(cif.parse_block(text[:start] + text[stop:]).numbers) == 9
        open_origin = (text[:start] + text[stop:]).replace("P3_121", "'F d -3 m'").replace("   152", "   ?")
        with pytest.raises(UnusableStructure, match="has 2 settings; list its symmetry operations"):
            cif.parse_block(open_origin)

    def test_several_blocks_quotes_and_text_fields(self, tmp_path: Path) -> None:
        inside = (
            "_publ_section_title\n;\n data_trap and _cell_length_a 1\n;\n_note 'it''s'\n_a \"b ' c\" # d\n"
        )
        text = p1_cif(LOW).replace("_cell_volume", inside + "_cell_volume")
        second = p1_cif(ONE).replace("data_Mg", "data_x")
        items = read(write(tmp_path / "a.cif", f"{text}\n{second}\n{second}"))
        assert ids(items) == ["TiNO2", "x", "x-2"]
        assert is_niggli_of(items[0], LOW)

    def test_deuterium_uncertainties_and_labels_only(self) -> None:
        text = p1_cif(ONE).replace("  Mg  Mg0  1  0.10000000", "  D  D0  1  0.1000(12)")
        block = cif.parse_block(text)
        assert block.numbers.tolist() == [1]
        np.testing.assert_allclose(block.fractional, [[0.1, 0.2, 0.3]])
        labels = p1_cif(ONE).replace(" _atom_site_type_symbol\n", "").replace("  Mg  Mg0", "  Mg0")
        assert cif.parse_block(labels).numbers.tolist() == [12]

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("0.20000000", "nan", "expected a number|position of atom 0"),
            ("0.20000000", "?", "expected a number"),
            ("0.20000000", "1e9", "position of atom 0"),
            ("0.30000000  1\n", "0.30000000  0.5\n", "partial or mixed occupancy: 0.5 of atom 0"),
            ("0.30000000  1\n", "0.30000000\n", "holds 6 values"),
            (
                "0.30000000  1\n",
                "0.30000000  1\n  Mg  Mg1  1  1.1  0.2  0.3  1\n",
                "atoms 0 and 1 are at one place",
            ),
            ("  Mg  Mg0", "  Fm  Fm0", "atomic number 100"),
            ("  Mg  Mg0", "  Wat Wat0", "unknown element 'Wat'"),
            ("_cell_length_a   3.2", "_cell_length_a   -3.2", "cell lengths"),
            ("_cell_length_a   3.2", "_cell_length_a   0.0", "cell lengths"),
            ("_cell_length_a   3.2", "_cell_length_c   3.2", "stands twice"),
            ("_cell_angle_gamma   120", "_cell_angle_gamma   200", "cell angles"),
            ("_cell_angle_gamma   120.00000000", "_cell_angle_gamma ?", "expected a number"),
            ("_cell_angle_gamma   120", "_cell_angle_gamma   180", "cell angles"),
            ("'x, y, z'", "'-x, y, z'\n  2  'x, y, z'", "does not keep the cell"),
            ("'x, y, z'", "'-x, -y, z+1/3'\n  2  'x, y, z'", "are not a group"),
            ("'x, y, z'", "'x, y, z'\n  2  'x, y, z'", "given twice"),
            ("'x, y, z'", "'x, y, q'", "not understood"),
            ("'x, y, z'", "'x, y, z", "does not end"),
            ("data_Mg", "data_Mg stray", "belongs to nothing"),
            ("_occupancy", "_disorder_group", "a disordered atom"),
            ("_cell_volume", "_cell\x00_volume", "control character"),
        ],
    )
    def test_bad_blocks(self, tmp_path: Path, old: str, new: str, reason: str) -> None:
        text = p1_cif(ONE)
        assert old in text
        (item,) = read(write(tmp_path / "a.cif", text.replace(old, new)))
        assert isinstance(item, Rejected)
        assert any(r in item.reason for r in reason.split("|")), item.reason

    def test_no_block(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no data_ block; expected a CIF file"):
            read(write(tmp_path / "a.cif", "nonsense\n"))


class TestPoscar:
    @pytest.mark.parametrize("name", ["POSCAR", "CONTCAR.gz", "POSCAR_low", "low.vasp", "low.poscar"])
    def test_names(self, tmp_path: Path, name: str) -> None:
        data = poscar(LOW).encode()
        (item,) = read(write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data))
        assert is_niggli_of(item, LOW)

    def test_scales_cartesian_flags_and_velocities(self, tmp_path: Path) -> None:
        lines = [
            "low",
            f"-{LOW.volume:.12f}",
            *poscar(LOW).split("\n")[2:7],
            "Selective",
            "kartesian",
        ]
        rows = [
            " ".join(f"{x:.12f}" for x in site.coords) + " T F .TRUE. " + site.specie.symbol for site in LOW
        ]
        text = "\n".join([*lines, *rows, "", "0.1 0 0", ""])
        assert is_niggli_of(read(write(tmp_path / "a.vasp", text))[0], LOW)
        doubled = text.replace(lines[1], "2.0")
        (item,) = read(write(tmp_path / "a.vasp", doubled))
        assert np.linalg.det(item.cell) == pytest.approx(8 * LOW.volume)

    @pytest.mark.parametrize(
        ("line", "new", "reason"),
        [
            (1, "0.0", "expected a scale other than 0"),
            (2, "4.08 0.0", "a lattice vector is not 3 numbers"),
            (5, "1 1 2", "no line of element symbols (VASP 4)"),
            (5, "Ti Qq O", "unknown element 'Qq'"),
            (6, "1 1 3", "5 atoms announced, 4 rows found"),
            (6, "1 1 1", "3 atoms announced, more rows found"),
            (6, "1 1 -1", "expected 3 numbers of atoms"),
            (7, "?", "expected Direct or Cartesian"),
            (8, "0.1 nan 0.2", "expected a number"),
            (8, "0.1 0.2 0.3 Mg", "is called 'Mg'"),
            (8, "0.52 0.88 0.71", "at one place"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: int, new: str, reason: str) -> None:
        lines = poscar(LOW).split("\n")
        lines[line] = new
        assert reason in reasons(read(write(tmp_path / "POSCAR", "\n".join(lines))))[0]


class TestAseDb:
    def test_crystals_molecules_and_slabs(self, tmp_path: Path) -> None:
        path = write_ase_db(tmp_path / "a.db", [QUARTZ, LOW])
        with ase.db.connect(path) as database:
            database.write(Atoms("OH2", positions=[[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]]))
            database.write(Atoms("Cu", cell=[2, 2, 9], pbc=(True, True, False)))
        items = read(path)
        assert is_niggli_of(items[0], QUARTZ)
        assert is_niggli_of(items[1], LOW)
        assert (items[2].periodic, items[2].numbers.tolist()) == (False, [8, 1, 1])
        assert "periodic in 2 of 3 directions" in reasons(items)[3]
        assert ids(items) == ["1", "2", "3", "4"]

    def test_names(self, tmp_path: Path) -> None:
        path = write_ase_db(tmp_path / "a.db", [ONE, LOW], names=True)
        assert ids(read(path)) == ["row-0", "row-1"]
        with ase.db.connect(path) as database:
            database.write(Atoms("Cu", cell=[2, 2, 9], pbc=True), name="row-1")
        assert ids(read(path)) == ["1", "2", "3"]

    def test_other_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not an SQLite database; expected ASE"):
            read(write(tmp_path / "a.db", "hello"))
        with sqlite3.connect(tmp_path / "b.db") as database:
            database.execute("CREATE TABLE t (x)")
        with pytest.raises(DataError, match="no table 'systems'"):
            read(tmp_path / "b.db")
        data = gzip.compress(write_ase_db(tmp_path / "c.db", [ONE]).read_bytes())
        with pytest.raises(DataError, match="decompress the file"):
            read(write(tmp_path / "c.db.gz", data))
